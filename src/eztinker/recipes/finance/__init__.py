"""Finance reasoning in eight stages: prepare, distil, filter, SFT, GRPO, evaluate, deploy, ablate."""
