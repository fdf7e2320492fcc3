"""What ``--help`` says of each command, argument and option: English, then Chinese.

The key of an option is its command and its name, of options that commands share ``option`` and its name. Read by
``texts.py``.
"""

from __future__ import annotations

HELP: dict[str, tuple[str, str]] = {
    # The program and its commands
    "app": (
        "Your own Tinker, on any machine: a private post-training service for language models.",
        "你自己的 Tinker，任何机器都能运行：语言模型的私有后训练服务。",
    ),
    "server": ("Run the service.", "启动服务。"),
    "version": ("Show the version.", "显示版本。"),
    "health": ("Ask the server whether it is well.", "检查服务器是否正常。"),
    "status": (
        "Show what the server holds: models, runs, jobs, checkpoints.",
        "显示服务器状态：模型、训练运行、任务、检查点。",
    ),
    "create": ("Create a training run and print its id.", "创建训练运行并打印其编号。"),
    "list-runs": ("List the training runs.", "列出所有训练运行。"),
    "delete": ("Delete a training run; its checkpoints stay.", "删除训练运行；其检查点保留。"),
    "sample": ("Continue a prompt and print the text.", "根据提示生成文本。"),
    "chat": ("Talk with a model in the terminal.", "在终端与模型对话。"),
    "save": ("Save a checkpoint of a run.", "保存训练运行的检查点。"),
    "checkpoints": ("List the checkpoints.", "列出检查点。"),
    "pin": (
        "Protect a checkpoint from rules and budgets, or say how good it is.",
        "保护检查点不被规则和配额删除，或给它评分。",
    ),
    "pin off": ("Take the protection back.", "取消保护。"),
    "pin score": (
        "How good it is, for --keep-best; more is better.",
        "评分，供 --keep-best 使用；越大越好。",
    ),
    "prune": (
        "Delete checkpoints by rules (newest, best) and the server's budgets.",
        "按规则（最新、最佳）和服务器配额删除检查点。",
    ),
    "prune keep-last": (
        "Newest checkpoints of each run that stay; default: the server's rule.",
        "每个运行保留的最新检查点数；默认按服务器设置。",
    ),
    "prune keep-best": (
        "Checkpoints with the highest scores that stay; default: the server's rule.",
        "每个运行保留的最高评分检查点数；默认按服务器设置。",
    ),
    "prune dry-run": ("Only say what would be deleted.", "只显示将删除的检查点，不删除。"),
    "eval": (
        "Measure how well a model, a run or a checkpoint answers a data set.",
        "评测模型、训练运行或检查点在数据集上的准确率。",
    ),
    "logs": (
        "Show what a run has done: losses, steps, checkpoints, failures.",
        "显示训练运行做过的事：损失、步数、检查点、失败。",
    ),
    "merge": (
        "Add an adapter to its base model: an ordinary model folder.",
        "把适配器合并进基础模型，得到普通的模型文件夹。",
    ),
    "export": (
        "Write a run or checkpoint as a folder for PEFT, transformers and vLLM, and compare it with the server.",
        "把训练运行或检查点导出为 PEFT、transformers、vLLM 可用的文件夹，并与服务器比对。",
    ),
    "import": (
        "Make a run of a LoRA adapter in PEFT's layout.",
        "把 PEFT 格式的 LoRA 适配器变成训练运行。",
    ),
    "push": (
        "Upload an exported folder to the Hugging Face hub.",
        "把导出的文件夹上传到 Hugging Face hub。",
    ),
    "serve": (
        "Serve models over the OpenAI-compatible API only.",
        "只以 OpenAI 兼容接口提供模型。",
    ),
    "demo": (
        "Rejection sampling from start to finish: accuracy before and after. Needs no network.",
        "拒绝采样完整演示：训练前后的准确率对比。无需网络。",
    ),
    "recipe": (
        "Run a training recipe: SFT, rejection sampling, GRPO, DPO, distillation and more.",
        "运行训练配方：SFT、拒绝采样、GRPO、DPO、蒸馏等。",
    ),
    "jobs": ("List, show and cancel jobs.", "列出、查看、取消任务。"),
    "jobs list": ("List the newest jobs.", "列出最新的任务。"),
    "jobs show": ("Show one job with its result.", "查看一个任务及其结果。"),
    "jobs cancel": ("Ask the server to stop a job.", "请求服务器停止任务。"),
    "keys": ("Make, list and revoke keys of a server.", "创建、列出、吊销服务器密钥。"),
    "keys create": ("Make a key and print it, this once.", "创建密钥并打印（仅此一次）。"),
    "keys list": ("List the keys, without the keys themselves.", "列出密钥（不含密钥本身）。"),
    "keys revoke": ("Take a key back.", "吊销密钥。"),
    "config": ("Show and check the server's settings.", "查看和检查服务器设置。"),
    "config show": (
        "Show the settings a server would start with here, after all layers.",
        "显示在此处启动的服务器所用的最终设置。",
    ),
    "config import": (
        "Turn a training file of LLaMA-Factory or axolotl into settings of a recipe.",
        "将 LLaMA-Factory 或 axolotl 的训练配置转换为配方设置。",
    ),
    "config import output": ("Write the settings to this file.", "将设置写入该文件。"),
    "config import data": (
        "File to train on, instead of what the file names.",
        "训练数据文件，代替配置中的数据集。",
    ),
    "config import drop": (
        "Leave out a key that has no counterpart here (repeatable).",
        "忽略没有对应项的键（可重复）。",
    ),
    "config check": ("Check a settings file.", "检查设置文件。"),
    "doctor": (
        "Check this machine: Python, torch, memory, disk, server.",
        "检查本机：Python、torch、内存、磁盘、服务器。",
    ),
    "conformance": (
        "Check whether a server speaks the Tinker protocol.",
        "检查服务器是否符合 Tinker 协议。",
    ),
    "conformance url": ("The server, as in TINKER_BASE_URL.", "服务器地址，同 TINKER_BASE_URL。"),
    "conformance api-key": ("Key to send.", "要发送的密钥。"),
    "data": ("Look into data files.", "查看数据文件。"),
    "data inspect": (
        "Say what a data file holds: formats, lengths, bad rows, and the first rows as a model sees them.",
        "说明数据文件的内容：格式、长度、有问题的行，以及模型看到的前几行。",
    ),
    "data inspect model": (
        "Model whose tokenizer and chat template are used (nano, a folder, or a name of the server).",
        "使用其分词器与对话模板的模型（nano、目录或服务器上的名称）。",
    ),
    "data inspect rows": ("Rows to render.", "显示的行数。"),
    "data inspect max-length": ("Count rows longer than this.", "统计超过该长度的行。"),
    "recipe config": ("YAML file with settings.", "设置文件（YAML）。"),
    "recipe dry-run": (
        "Say what would be done and show the first batch; nothing is trained.",
        "只显示计划与第一个批次，不训练。",
    ),
    "recipe stages": (
        "Stages of the recipe finance: 1-8, 4-6, 1-3,6.",
        "finance 配方要运行的阶段：1-8、4-6、1-3,6。",
    ),
    "recipe keys": ("List every setting with its default.", "列出所有设置及默认值。"),
    "option base-url": ("Address of the server.", "服务器地址。"),
    "option api-key": ("Key for the server.", "服务器密钥。"),
    "option json": ("Print one JSON document.", "输出一个 JSON 文档。"),
    "option run": ("Use this run's current weights.", "使用该训练运行的当前权重。"),
    "option checkpoint": ("Use this checkpoint of the run.", "使用该运行的检查点。"),
    "option model": ("Use this base model.", "使用该基础模型。"),
    "option max-tokens": ("Most tokens to generate.", "最多生成的词元数。"),
    "option temperature": ("0 takes the likeliest token.", "0 表示总取最可能的词元。"),
    "option timeout": ("Seconds to wait.", "等待的秒数。"),
    "option seed": ("Same seed, same answer.", "相同种子，相同结果。"),
    "create run-id": ("A name of your own for the run.", "为运行自定义编号。"),
    "create rank": ("Rank of the adapter.", "适配器的秩。"),
    "create alpha": ("The update is scaled by alpha / rank.", "更新按 alpha / rank 缩放。"),
    "create quantization": ("Of the base weights.", "基础权重的量化方式。"),
    "sample prompt": (
        "The text to continue; - reads stdin.",
        "要续写的文本；- 表示从标准输入读取。",
    ),
    "sample top-p": ("Nucleus mass in (0, 1].", "核采样的概率质量，(0, 1]。"),
    "sample top-k": (
        "Likeliest tokens to draw from; 0 is off.",
        "只从最可能的若干词元中取；0 表示不限。",
    ),
    "sample num-samples": (
        "So many answers, printed without the prompt.",
        "生成多个回答，输出时不含提示。",
    ),
    "sample stop": ("Text that ends an answer; repeatable.", "遇到此文本即停止；可重复给出。"),
    "chat system": ("The system message.", "系统消息。"),
    "save overwrite": ("Replace a checkpoint of this name.", "覆盖同名检查点。"),
    "checkpoints run-id": ("Of this run only.", "只列出该运行的。"),
    "eval dataset": ("Name of the data set.", "数据集名称。"),
    "eval split": ("Split of the data set.", "数据集的划分。"),
    "eval max-samples": ("The first so many questions.", "只取前多少道题。"),
    "eval num-samples": ("Answers to each question.", "每道题的回答数。"),
    "eval pass-at": ("Report pass@K too; repeatable.", "同时报告 pass@K；可重复给出。"),
    "eval answers": (
        "Write every answer with its grade here (JSONL).",
        "将每个回答及评分写入此文件（JSONL）。",
    ),
    "logs after": ("Begin after this entry.", "从该条目之后开始。"),
    "logs json": ("Print one JSON object per line.", "每行输出一个 JSON 对象。"),
    "logs follow": ("Go on with new entries until Ctrl-C.", "持续显示新条目，直到按 Ctrl-C。"),
    "jobs run-id": ("Of this run only.", "只列出该运行的。"),
    "jobs status": ("In this state only.", "只列出该状态的。"),
    "jobs limit": ("At most so many.", "最多列出多少个。"),
    "keys name": ("What the key is for.", "密钥的用途。"),
    "keys scope": (
        "What it allows: read, sample, train, admin; repeatable.",
        "允许的操作：read、sample、train、admin；可重复。",
    ),
    "keys owner": ("Whose things it reaches. (default: NAME)", "可访问谁的内容。（默认：NAME）"),
    "keys expires": (
        "How long it works: 30d, 12h. (default: for ever)",
        "有效期：30d、12h。（默认：永久）",
    ),
    "keys state-dir": (
        "State folder of the server. (default: as for 'eztinker server')",
        "服务器的状态目录。（默认：与 eztinker server 相同）",
    ),
    "doctor torch": ("Import torch and look at its devices.", "导入 torch 并查看设备。"),
    "server host": ("Address to listen on. (default: 127.0.0.1)", "监听地址。（默认：127.0.0.1）"),
    "server port": (
        "Port; 0 takes a free one. (default: 8000)",
        "端口；0 表示任取空闲端口。（默认：8000）",
    ),
    "server workers": (
        "Threads that prepare requests; models are loaded once whatever the number. (default: 4)",
        "处理请求的线程数；无论多少，模型只加载一次。（默认：4）",
    ),
    "server checkpoints-dir": (
        "Folder of the checkpoints. (default: checkpoints/ in the state folder)",
        "检查点目录。（默认：状态目录下的 checkpoints/）",
    ),
    "server reload": (
        "Restart when the package's sources change; the state survives.",
        "源代码更改时重启；状态不会丢失。",
    ),
    "server state-dir": (
        "Folder of the database and snapshots. (default: eztinker-data)",
        "数据库和快照目录。（默认：eztinker-data）",
    ),
    "server model": (
        "Base model to load at start; repeatable, the first is the default model.",
        "启动时加载的基础模型；可重复，第一个为默认模型。",
    ),
    "server alias": (
        "Serve a model or folder under another name; repeatable.",
        "以另一名称提供模型或目录；可重复。",
    ),
    "server config": (
        "Settings file. (default: eztinker.yaml here)",
        "设置文件。（默认：当前目录的 eztinker.yaml）",
    ),
    "server num-threads": (
        "Threads of the engine; 0 is the number of physical cores. (default: 0)",
        "引擎线程数；0 表示物理核数。（默认：0）",
    ),
    "server dtype": (
        "What models compute in: auto, fp32 or bf16. auto is fp32 below 300 M parameters on a CPU, "
        "else bf16. (default: auto)",
        "计算精度：auto、fp32 或 bf16。auto 在 CPU 上对 3 亿参数以下的模型用 fp32，否则用 bf16。（默认：auto）",
    ),
    "server memory-budget": (
        "GB for the engine, its models and runs; idle models make room for others. "
        "(default: 80 % of the machine's memory, 90 % of a GPU's)",
        "引擎、模型和运行可用的内存（GB）；空闲模型会为其他模型让位。（默认：内存的 80%，显存的 90%）",
    ),
    "estimate": (
        "Predict the memory a model and a run will take, before loading anything.",
        "在加载之前预测模型和训练运行所需的内存。",
    ),
    "estimate batch": ("Sequences per training request.", "每个训练请求的序列数。"),
    "estimate seq-len": ("Tokens per sequence.", "每个序列的词元数。"),
    "estimate num-samples": (
        "Sequences of that length generated meanwhile.",
        "同时生成的（同样长度的）序列数。",
    ),
    "estimate device": ("Where the model would lie.", "模型所在的设备。"),
    "server device": (
        "auto, cpu, cuda or cuda:N. (default: auto)",
        "auto、cpu、cuda 或 cuda:N。（默认：auto）",
    ),
    "server insecure": (
        "Answer other machines although there is no key.",
        "即使没有密钥也应答其他机器。",
    ),
    "server allowed-host": (
        "A name by which browsers may call this server; repeatable.",
        "浏览器可用来访问本服务器的名称；可重复。",
    ),
    "demo dataset": ("Problems to train on.", "训练所用的题目。"),
    "demo data-path": ("File or folder with the data set.", "数据集文件或目录。"),
    "demo max-samples": ("Problems to train on.", "训练题目数。"),
    "demo num-candidates": ("Candidates per problem.", "每题的候选回答数。"),
    "demo epochs": ("Rounds over the problems.", "训练轮数。"),
    "demo eval-size": ("Held-out problems.", "评测题目数。"),
    "demo output-dir": ("Where plot and results go.", "图表和结果的输出目录。"),
    "chat model": (
        "A base model, a run (its current weights), or RUN@CHECKPOINT.",
        "基础模型、训练运行（当前权重）或 RUN@CHECKPOINT。",
    ),
    "chat vs": ("Let a second model answer too.", "让第二个模型也作答。"),
    "serve model": (
        "Base models to load at start (names or folders).",
        "启动时加载的基础模型（名称或文件夹）。",
    ),
    "option target": ("New folder; it must not exist.", "新文件夹；不得已存在。"),
    "merge adapter": ("Folder of a PEFT adapter.", "PEFT 适配器文件夹。"),
    "merge base-model": (
        "The base model on this machine; default: what the adapter names.",
        "本机上的基础模型；默认：适配器所记录的名称。",
    ),
    "merge quantization": (
        "Merge into the weights as nf4 or int8 leaves them, for an adapter that was trained on those.",
        "合并进 nf4 或 int8 量化后的权重（适配器在其上训练时使用）。",
    ),
    "merge dtype": (
        "Type of a merged model's weights: float32, bfloat16, float16; default: as the base model.",
        "合并后权重的类型：float32、bfloat16、float16；默认：与基础模型相同。",
    ),
    "export model": (
        "A run (its current weights), or RUN@CHECKPOINT.",
        "训练运行（当前权重），或 RUN@CHECKPOINT。",
    ),
    "export format": (
        "peft: the adapter; merged: a whole model.",
        "peft：适配器；merged：完整模型。",
    ),
    "export name": (
        "What the model is called; default: the folder's name.",
        "模型名称；默认：文件夹名。",
    ),
    "export prompt": (
        "Compare on this text (repeatable); default: three built-in ones.",
        "用这段文本比对（可重复）；默认：三段内置文本。",
    ),
    "import base-model": (
        "The base model as the server knows it; default: what the adapter names.",
        "服务器所知的基础模型；默认：适配器所记录的名称。",
    ),
    "push folder": ("An exported or merged folder.", "导出或合并得到的文件夹。"),
    "push repo": ("Repository on the hub.", "hub 上的仓库。"),
    "push public": ("Make a new repository public.", "新仓库设为公开。"),
    "push revision": ("Branch to upload to.", "上传到的分支。"),
}
