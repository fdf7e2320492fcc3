"""What commands say while they work and in their tables: English, then Chinese.

``{name}`` places are filled by ``texts.say``. Errors that the server or the library words stay English.
"""

from __future__ import annotations

MESSAGES: dict[str, tuple[str, str]] = {
    "pinned": ("Checkpoint {name} of {run_id} is pinned.", "{run_id} 的检查点 {name} 已受保护。"),
    "not pinned": (
        "Checkpoint {name} of {run_id} is not pinned.",
        "{run_id} 的检查点 {name} 未受保护。",
    ),
    "pruned": (
        "{count} checkpoints deleted, {size} freed.",
        "已删除 {count} 个检查点，释放 {size}。",
    ),
    "would prune": (
        "{count} checkpoints would be deleted, {size} freed.",
        "将删除 {count} 个检查点，释放 {size}。",
    ),
    "config import left out": (
        "Left out, for they change nothing here: {keys}",
        "已忽略（在此不起作用）：{keys}",
    ),
    "conformance summary": (
        "{pass_} passed, {fail} failed, {skip} not offered: {url}",
        "{url}：{pass_} 项通过，{fail} 项失败，{skip} 项未提供",
    ),
    "recipe no estimate": ("unknown here: {reason}", "此处无法估计：{reason}"),
    "recipe continue": (
        "Run the same command again to continue where {folder} stands.",
        "再次运行同一命令，即可从 {folder} 中断处继续。",
    ),
    "eval questions": ("questions", "题数"),
    "eval accuracy": ("accuracy", "准确率"),
    "eval written": ("Answers written to {path}.", "回答已写入 {path}。"),
    "no log": ("Nothing yet.", "还没有记录。"),
    "estimate engine": ("engine process itself", "引擎进程本身"),
    "estimate weights": ("base model", "基础模型"),
    "estimate copies": ("copies for faster products", "为加速乘法保存的副本"),
    "estimate loading": ("while it is read", "读取期间"),
    "estimate run": ("adapter, gradient, Adam moments", "适配器、梯度、Adam 动量"),
    "estimate training": ("largest micro-batch", "最大的微批次"),
    "estimate sampling": ("generation: cache, logits", "生成：缓存与 logits"),
    "estimate resident": ("at rest", "空闲时合计"),
    "estimate peak": ("at most", "峰值"),
    "estimate fits": (
        "It fits: a server here has {room} for models and their work.",
        "可以容纳：此处的服务器有 {room} 供模型及其工作使用。",
    ),
    "estimate unknown": (
        "Only the device can tell how much it has; give --memory-budget to compare.",
        "显存大小只有设备知道；请用 --memory-budget 指定以便比较。",
    ),
    "estimate too large": (
        "It does not fit: {needed} beside the engine, and a server here has {room} for models and their "
        "work. Use --quantization nf4, a smaller --rank, --batch or --seq-len, or raise --memory-budget.",
        "无法容纳：除引擎外需要 {needed}，而此处的服务器有 {room}。请使用 --quantization nf4，减小 --rank、"
        "--batch 或 --seq-len，或提高 --memory-budget。",
    ),
    "error": ("Error", "错误"),
    "submitted": ("Job submitted: {job_id}", "任务已提交：{job_id}"),
    "created": ("Created a training run of {model}.", "已创建 {model} 的训练运行。"),
    "deleted": ("Deleted {run_id}.", "已删除 {run_id}。"),
    "saved": ("Saved {name} of {run_id}.", "已保存 {run_id} 的检查点 {name}。"),
    "cancelled": ("Job {job_id}: {status}.", "任务 {job_id}：{status}。"),
    "interrupted": ("Interrupted.", "已中断。"),
    "key created": (
        "Made key {key_id} for {owner}: {scopes}. It is shown only now.",
        "已为 {owner} 创建密钥 {key_id}：{scopes}。仅此一次显示。",
    ),
    "key revoked": ("Revoked key {key_id}.", "已吊销密钥 {key_id}。"),
    "no keys": (
        "No keys: whoever uses this machine may use the server. 'eztinker keys create NAME' makes one.",
        "没有密钥：本机任何人都可使用服务器。用 eztinker keys create NAME 创建一个。",
    ),
    "no runs": (
        "No training runs yet. 'eztinker create' makes one.",
        "还没有训练运行。用 eztinker create 创建一个。",
    ),
    "no checkpoints": (
        "No checkpoints yet. 'eztinker save RUN_ID NAME' makes one.",
        "还没有检查点。用 eztinker save RUN_ID NAME 保存一个。",
    ),
    "no jobs": ("No jobs yet.", "还没有任务。"),
    "healthy": (
        "ok: EZTinker {version} at {base_url}, answered in {milliseconds:.0f} ms",
        "正常：{base_url} 上的 EZTinker {version}，{milliseconds:.0f} 毫秒内应答",
    ),
    "unreachable": (
        "No EZTinker server answers at {base_url}.",
        "{base_url} 上没有 EZTinker 服务器应答。",
    ),
    "start a server": (
        "Start one in another terminal with: eztinker server",
        "请在另一个终端启动服务器：eztinker server",
    ),
    "settings ok": ("The settings are valid.", "设置有效。"),
    "chat hint": (
        "Type a message. /reset starts over, /exit (or Ctrl-D) ends.",
        "请输入消息。/reset 重新开始，/exit（或 Ctrl-D）结束。",
    ),
    "chat reset": ("Started over.", "已重新开始。"),
    "you": ("you", "你"),
    "merged": (
        "{num} layers merged in {dtype}; rounding at most {rounding}, dequantised base at most {dequantization} away.",
        "已合并 {num} 层，类型 {dtype}；舍入误差至多 {rounding}，反量化基础权重偏差至多 {dequantization}。",
    ),
    "exported": (
        "Reloaded: log-probabilities differ from the server's by at most {difference}.",
        "重新加载后，对数概率与服务器至多相差 {difference}。",
    ),
    "exported quantised": (
        "Compared on the weights as {quantization} leaves them. vLLM and PEFT load the plain base model, where the "
        "quantisation error is added; --format merged writes the weights that the run was trained on.",
        "比对所用的是 {quantization} 量化后的权重。vLLM 与 PEFT 加载的是未量化的基础模型，会另有量化误差；"
        "--format merged 写出训练时所用的权重。",
    ),
    "exported with difference": (
        "Take care: reloaded, log-probabilities differ from the server's by up to {difference} (more than "
        "{tolerance}); export.json says where.",
        "注意：重新加载后，对数概率与服务器相差至 {difference}（超过 {tolerance}）；详见 export.json。",
    ),
    "imported": ("Run {run_id} begins with the adapter.", "训练运行 {run_id} 以该适配器开始。"),
    "reloaded": ("Source changed, restarting the server.", "源文件已更改，正在重启服务器。"),
    "all well": ("Nothing stands in the way.", "一切正常。"),
    "doctor failed": ("Something here needs your attention.", "有问题需要处理。"),
}
