"""Settings of the finance pipeline (scripts/1_prepare_raw_data.py to scripts/8_ablation_study.py): edit and save.

``eztinker recipe finance --keys`` lists every attribute with its default and what it does; any of them may be set here. A
misspelt attribute or a value out of range is an error when a script starts.
"""

from eztinker.recipes.finance.parts import (
    DataConfig,
    DeployConfig,
    EvaluationConfig,
    FilterConfig,
    GRPOConfig,
    JudgeConfig,
    LoRAConfig,
    ModelConfig,
    SFTConfig,
    TeacherConfig,
    WandbConfig,
)

TEACHER_CONFIG = TeacherConfig()
JUDGE_CONFIG = JudgeConfig()
MODEL_CONFIG = ModelConfig()
LORA_CONFIG = LoRAConfig()
DATA_CONFIG = DataConfig()
FILTER_CONFIG = FilterConfig()
SFT_CONFIG = SFTConfig()
GRPO_CONFIG = GRPOConfig()
EVAL_CONFIG = EvaluationConfig()
DEPLOY_CONFIG = DeployConfig()
WANDB_CONFIG = WandbConfig()

# ========== Models: names on the hub, or folders ==========
TEACHER_CONFIG.model_name = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"  # stage 2
JUDGE_CONFIG.model_name = "Qwen/Qwen2.5-7B-Instruct"  # stages 3, 5, 6
MODEL_CONFIG.base_model = "Qwen/Qwen2.5-1.5B-Instruct"  # is trained
MODEL_CONFIG.model_max_length = 2048

# ========== Questions ==========
DATA_CONFIG.local_path = None  # a file or folder instead of a download
DATA_CONFIG.custom_path = None  # further questions of your own
DATA_CONFIG.total_samples = 1000
DATA_CONFIG.seed = 42

# ========== Adapter ==========
LORA_CONFIG.r = 16
LORA_CONFIG.lora_alpha = 32
LORA_CONFIG.target_modules = [
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
]

# ========== SFT ==========
SFT_CONFIG.num_train_epochs = 2
SFT_CONFIG.per_device_train_batch_size = 2
SFT_CONFIG.gradient_accumulation_steps = 8
SFT_CONFIG.learning_rate = 2e-4

# ========== GRPO ==========
GRPO_CONFIG.num_sample_generations = 4
GRPO_CONFIG.temperature = 0.7
GRPO_CONFIG.kl_coef = 0.05
GRPO_CONFIG.format_reward_weight = 0.3
GRPO_CONFIG.accuracy_reward_weight = 0.7

# ========== Weights & Biases ==========
WANDB_CONFIG.enabled = True  # without wandb installed training goes on without it
WANDB_CONFIG.project = "FTModel-Training"
