"""Stage 7 of the finance pipeline: merge, serve, ask.

    python scripts/7_deploy.py --action merge
    python scripts/7_deploy.py --action serve
    python scripts/7_deploy.py --action simple
    python scripts/7_deploy.py --action test

merge writes ckpts/merged_model/ from ckpts/grpo_lora/ (or --model_path ADAPTER); serve runs vLLM on it and simple the
built-in OpenAI-compatible server, both at --host and --port under the name of the folder as given (ckpts/merged_model);
test asks whoever answers there one question. The work is in eztinker.recipes.finance.deployment.
"""

import sys

from eztinker.recipes.finance import deployment
from eztinker.recipes.finance.door import Flag, StageDoor

DOOR = StageDoor(
    __file__,
    __doc__,
    deployment.act,
    flags=(
        Flag("action", ":action", "what to do (merge)", choices=deployment.ACTIONS),
        Flag("model_path", ":model_path", "adapter to merge, or whole model to serve and ask"),
        Flag("host", "deploy.host", "address to serve at (127.0.0.1)"),
        Flag("port", "deploy.port", "port to serve at (8000)", kind=int),
        Flag("vllm_python", "deploy.vllm_python", "Python that has vLLM (this one)"),
    ),
    needs_server=False,
)

if __name__ == "__main__":
    sys.exit(DOOR.main())
