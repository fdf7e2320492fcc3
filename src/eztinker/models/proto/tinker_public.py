"""The messages of package ``tinker_public``: names, numbers and types are the contract.

All ``bytes`` that hold arrays are little-endian: token ids int32, log-probabilities float32, CSR indices
and offsets int64, the data of a tensor in its own type. Parsed and written by ``api/tinker``; nothing is
converted here.
"""

from __future__ import annotations

from typing import Any

from eztinker.models.proto.schema import build_classes

STOP_REASONS = {"stop": 0, "length": 1}
DTYPES = {"float32": 1, "int64": 2, "int32": 3, "bfloat16": 4}

_ENUMS = {
    "StopReason": {"STOP_REASON_STOP": 0, "STOP_REASON_LENGTH": 1},
    "DType": {
        "DTYPE_UNSPECIFIED": 0,
        **{f"DTYPE_{name.upper()}": number for name, number in DTYPES.items()},
    },
}

_MESSAGES = {
    "SparseCsr": """
        1 values bytes
        2 crow_indices bytes
        3 col_indices bytes
    """,
    "Tensor": """
        1 dense bytes in encoding
        2 sparse_csr SparseCsr in encoding
        3 dtype DType
        4 shape repeated int64
    """,
    # Training: request.
    "EncodedTextChunk": "1 tokens bytes",
    "ImageDimensions": """
        1 width uint32
        2 height uint32
    """,
    "ImageChunk": """
        1 data bytes
        2 format string
        3 expected_tokens int32
        4 override_dimensions ImageDimensions
    """,
    "DmelChunk": "1 dmel bytes",
    "Chunk": """
        1 encoded_text EncodedTextChunk in chunk
        2 image ImageChunk in chunk
        3 dmel DmelChunk in chunk
    """,
    "PromptProvenanceSpan": """
        1 sequence_id string
        2 offset int64
        3 length int64
    """,
    "SampledProvenanceSpan": """
        1 sequence_id string
        2 offset int64
        3 length int64
    """,
    "ProvenanceSpan": """
        1 prompt_tokens PromptProvenanceSpan in span
        2 sampled_tokens SampledProvenanceSpan in span
    """,
    "Datum": """
        1 model_input repeated Chunk
        2 loss_fn_inputs map<string,Tensor>
        3 model_input_spans repeated ProvenanceSpan
        4 loss_fn_input_spans repeated ProvenanceSpan
    """,
    "LossConfigValue": """
        1 number double in value
        2 text string in value
    """,
    "ForwardBackwardRequest": """
        1 model_id string
        2 seq_id int32
        3 data repeated Datum
        4 loss_fn string
        5 loss_fn_config map<string,double>
        6 forward_only bool
        7 loss_fn_config_v2 map<string,LossConfigValue>
    """,
    # Training: answer.
    "BatchedTensor": """
        1 data bytes
        2 offsets bytes
        3 dtype DType
        4 trailing_shape repeated int64
    """,
    "ArrayRecord": """
        1 type_tag string
        2 fields map<string,BatchedTensor>
        3 num_datums int64
    """,
    "ForwardBackwardOutput": """
        1 loss_fn_output_type string
        2 loss_fn_outputs repeated ArrayRecord
        3 metrics map<string,double>
    """,
    # Sampling: answer.
    "TopkLogprobs": """
        1 token_ids bytes
        2 logprobs bytes
        3 k uint32
        4 length uint32
    """,
    "SampledSequence": """
        1 stop_reason StopReason
        2 tokens bytes
        3 logprobs bytes
        4 topk_sampled_logprobs TopkLogprobs
    """,
    "PromptAltTokens": """
        1 tokens Tensor
        2 logprobs Tensor
    """,
    "SampleResponse": """
        1 sequences repeated SampledSequence
        2 prompt_logprobs bytes
        3 topk_prompt_logprobs TopkLogprobs
        4 prompt_cache_hit_tokens int32
        5 target_prompt_logprobs Tensor
        6 prompt_alt_tokens PromptAltTokens
    """,
}

_CLASSES = build_classes("tinker_public", _ENUMS, _MESSAGES)

Tensor: Any = _CLASSES["Tensor"]
ForwardBackwardRequest: Any = _CLASSES["ForwardBackwardRequest"]
ForwardBackwardOutput: Any = _CLASSES["ForwardBackwardOutput"]
SampleResponse: Any = _CLASSES["SampleResponse"]
