"""The vocabulary both halves share: plain dataclasses, numpy at most.

``training`` and ``sampling`` hold what users know from the field (``Datum``, ``LoRAConfig``,
``SamplingParams``); ``operations`` what a run can be asked to do, and the answers; ``commands`` and ``events`` what
crosses the boundary between server process and engine worker; ``plans`` how a pass is executed; ``records`` what the
store remembers; ``codec`` turns all of them into bytes and back.
"""
