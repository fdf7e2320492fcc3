"""Candidates: what is sent, what comes back, what is trained."""

import pickle
from itertools import islice

import pytest

from eztinker.errors import InvalidRequestError
from eztinker.rl.candidates import (
    MAX_IN_FLIGHT,
    Candidate,
    CandidateParams,
    Example,
    encode_prompt,
    examples_of,
    prompt_tokens_of,
    sample_candidates,
    training_datum,
)
from tests.unit.rl.fake_service import END, CharTokenizer, FakeClient, SumDataset

TOKENIZER = CharTokenizer()


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def make_run(client: FakeClient) -> str:
    return client.create_run("nano", lora_rank=1, lora_alpha=2, lora_config={})


def test_candidate_is_a_string_that_survives_pickling_with_its_tokens():
    candidate = Candidate("ab", (1,), (2, 3), "length")
    again = pickle.loads(pickle.dumps(candidate))
    assert again == "ab"
    assert (again.prompt_tokens, again.tokens, again.stop_reason) == ((1,), (2, 3), "length")


def test_all_candidates_of_a_prompt_come_from_one_request():
    client = FakeClient()
    run_id = make_run(client)
    examples = examples_of(SumDataset(3))
    params = CandidateParams(num_candidates=5, temperature=0.7, max_new_tokens=9, stop=("x",))
    found = list(sample_candidates(client, run_id, TOKENIZER, examples, params, seed=1))
    assert [example for example, _ in found] == examples
    assert all(len(candidates) == 5 for _, candidates in found)
    assert len(client.samples) == 3
    sent = client.samples[0]
    assert sent["prompt"] == ids(examples[0].prompt)
    assert (sent["num_samples"], sent["temperature"], sent["max_new_tokens"]) == (5, 0.7, 9)
    assert sent["stop"] == ["x"]
    assert list(found[0][1][0].prompt_tokens) == sent["prompt"]


def test_seeds_differ_by_example_and_purpose_and_repeat():
    def seeds(purpose: str) -> list[int]:
        client = FakeClient()
        examples = examples_of(SumDataset(4))
        run_id = make_run(client)
        list(
            sample_candidates(
                client, run_id, TOKENIZER, examples, CandidateParams(), seed=3, purpose=purpose
            )
        )
        return [sample["seed"] for sample in client.samples]

    assert seeds("buffer") == seeds("buffer")
    assert len({*seeds("buffer"), *seeds("epoch 2")}) == 8


def test_many_prompts_are_in_flight_but_not_all_and_rest_is_cancelled_when_interrupted():
    client = FakeClient()
    run_id = make_run(client)
    examples = examples_of(SumDataset(MAX_IN_FLIGHT + 50))
    answers = sample_candidates(client, run_id, TOKENIZER, examples, CandidateParams(1), seed=0)
    list(islice(answers, 1))
    assert len(client.samples) == MAX_IN_FLIGHT
    answers.close()
    assert sum(handle.is_cancelled for handle in client.handles.values()) == MAX_IN_FLIGHT - 1


def test_datum_trains_exactly_the_sampled_tokens():
    # The sampler may have split the text unlike the tokenizer would; here token 7 stands for nothing.
    candidate = Candidate("ab", [1, 2], [97, 7, 98, END])
    datum = training_datum(TOKENIZER, candidate, "ignored", "ignored")
    assert datum == {
        "input_ids": [1, 2, 97, 7, 98, END],
        "target_ids": [-100, -100, 97, 7, 98, END],
        "weights": [0.0, 0.0, 1.0, 1.0, 1.0, 1.0],
    }


def test_datum_of_plain_text_masks_the_prompt_and_ends_with_the_end_token():
    datum = training_datum(TOKENIZER, " 4", "2+2=", "2+2")
    assert datum is not None
    assert datum["input_ids"] == [*ids("2+2= 4"), END]
    assert datum["target_ids"] == [-100] * 4 + [*ids(" 4"), END]


def test_text_behind_a_stop_text_is_not_trained():
    class Chatty(FakeClient):
        def _answer(self, number, run, params, i):
            tokens = ids(" 4\nQuestion:")
            return {"text": " 4", "tokens": tokens, "stop_reason": "stop"}

    client = Chatty()
    examples = examples_of(SumDataset(1))
    found = sample_candidates(
        client, make_run(client), TOKENIZER, examples, CandidateParams(1), seed=0
    )
    ((example, (candidate,)),) = found
    datum = training_datum(TOKENIZER, candidate, example.prompt, example.question)
    assert datum is not None
    assert datum["input_ids"] == [*ids(example.prompt + " 4"), END]


def test_an_answer_cut_by_length_does_not_learn_to_end():
    candidate = Candidate(" 4", ids("2+2="), ids(" 4"), "length")
    datum = training_datum(TOKENIZER, candidate, None, "")
    assert datum is not None
    assert datum["input_ids"] == ids("2+2= 4")


def test_an_empty_answer_without_end_token_gives_no_datum():
    class Endless(CharTokenizer):
        eos_token_id = None  # type: ignore[assignment]

    assert training_datum(Endless(), "", "2+2=", "") is None


def test_without_prompt_the_question_goes_through_the_chat_template():
    assert encode_prompt(TOKENIZER, None, "Hi") == ids("<user>Hi<assistant>")


def test_start_token_is_not_doubled():
    class Starting(CharTokenizer):
        bos_token = "<s>"

        def encode(self, text, add_special_tokens=True):
            return [1] * add_special_tokens + super().encode(text)

    assert encode_prompt(Starting(), "Hi", "") == [1, *ids("Hi")]
    assert encode_prompt(Starting(), "<s>Hi", "") == ids("<s>Hi")


def test_long_prompts_lose_their_beginning():
    params = CandidateParams(max_new_tokens=4, max_length=7)
    assert prompt_tokens_of(TOKENIZER, Example(0, "", "abcdef", ""), params) == ids("def")


@pytest.mark.parametrize(
    "settings", [{"num_candidates": 0}, {"max_new_tokens": 8, "max_length": 8}]
)
def test_impossible_params_are_refused(settings):
    with pytest.raises(InvalidRequestError):
        CandidateParams(**settings)
