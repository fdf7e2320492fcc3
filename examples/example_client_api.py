"""A walk through the client: health, data sets, a run, sampling, rejection sampling, raw HTTP beside it.

Start a server in another terminal (eztinker server), then:

    python examples/example_client_api.py                      # built-in model and problems, no network
    python examples/example_client_api.py --model Qwen/Qwen2-0.5B-Instruct --gsm8k PATH --sharegpt FILE.json
"""

import argparse
import sys

import httpx

from eztinker import (
    EZTinkerClient,
    GSM8KDataset,
    ShareGPTDataset,
    create_training_run,
    generate_candidates,
    select_best_candidate_and_train,
)
from eztinker.dataset.generated import GeneratedMathDataset
from eztinker.recipes.terminal import print_out
from eztinker.recipes.troubleshooting import run_door


def main() -> None:
    """The six parts, one after another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano", help="base model (nano)")
    parser.add_argument("--gsm8k", metavar="PATH", help="GSM8K file or folder")
    parser.add_argument("--sharegpt", metavar="FILE", help="conversations, JSON or JSONL")
    parser.add_argument("--base-url", metavar="URL", help="server (http://localhost:8000)")
    flags = parser.parse_args()
    with EZTinkerClient(flags.base_url) as client:
        check_health(client)
        dataset = load_datasets(client, flags)
        run_id = create_run(client, flags.model)
        sample(client, run_id)
        rejection_sampling(client, run_id, dataset)
        http_beside_client(client)
        client.delete_run(run_id)


def check_health(client):
    """1. Is the server there?"""
    title("1. Health")
    print_out(str(client.health()))


def load_datasets(client, flags):
    """2. Problems with one right answer, and conversations."""
    title("2. Data sets")
    if flags.gsm8k:
        dataset = GSM8KDataset(split="train", max_samples=2, data_path=flags.gsm8k)
    else:
        dataset = GeneratedMathDataset(split="train", max_samples=2)
    question, prompt, ground_truth = dataset.get_example_question(0)
    print_out(f"question: {question}\nprompt: {prompt!r}\nright answer: {ground_truth}")
    if flags.sharegpt:
        tokenizer = client.get_tokenizer(flags.model)
        conversations = ShareGPTDataset(flags.sharegpt, tokenizer, strict=False, max_samples=100)
        print_out(str(conversations.stats))
    return dataset


def create_run(client, model):
    """3. A run: a rank-1 adapter with its optimizer."""
    title("3. A training run")
    run_id = create_training_run(model, lora_rank=1, client=client)
    print_out(f"{run_id}; runs on the server: {len(client.get_runs())}")
    return run_id


def sample(client, run_id):
    """4. Text from the run's weights; the returned text begins with the prompt."""
    title("4. Sampling")
    print_out(client.sample("What is 2 + 2?", max_new_tokens=30, temperature=0.7, run_id=run_id))


def rejection_sampling(client, run_id, dataset):
    """5. Candidates, grades, the best one, a training step on it if it is correct."""
    title("5. Rejection sampling")
    for i in range(len(dataset)):
        question, prompt, ground_truth = dataset.get_example_question(i)
        candidates = generate_candidates(
            prompt, question, run_id, num_candidates=4, max_new_tokens=100, client=client
        )
        result = select_best_candidate_and_train(
            run_id, prompt, candidates, ground_truth, question, dataset, client=client
        )
        print_out(f"score {result['selected_score']:.3f}, trained: {result['trained']}")


def http_beside_client(client):
    """6. The same question over plain HTTP: post a job, poll it, read the result."""
    title("6. HTTP and the client")
    body = {"prompt": "12 + 7 =", "max_new_tokens": 5, "temperature": 0}
    job = httpx.post(f"{client.base_url}/v1/sample", json=body, timeout=60).json()
    while job["status"] not in ("completed", "failed", "cancelled"):
        address = f"{client.base_url}/v1/jobs/{job['job_id']}"
        job = httpx.get(address, params={"wait": 20}, timeout=60).json()
    print_out(f"HTTP:   {job['result']['generated_text']!r}")
    print_out(f"client: {client.sample('12 + 7 =', max_new_tokens=5, temperature=0)!r}")


def title(text):
    """A line above each part."""
    print_out(f"\n== {text} ==")


if __name__ == "__main__":
    sys.exit(run_door(main))
