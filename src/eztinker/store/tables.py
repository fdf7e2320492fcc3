"""The schema: the log, what has been made from it, the Tinker wire's sessions and samplers, and keys.

Columns only; queries stand in the file named after the table. Times are seconds since the epoch,
``*_json`` columns readable text, payloads and results MessagePack (``types/codec.py``). Changes come
with a numbered migration beside this file; a test compares the two.
"""

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("base_model", Text, nullable=False),
    Column("lora_json", Text, nullable=False),
    Column("loss_json", Text, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("quantization", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("step", Integer, nullable=False, default=0),
    Column("next_seq", Integer, nullable=False),
    Column("facts_json", Text, nullable=False, default="{}"),
    Column("user_metadata_json", Text, nullable=False, default="{}"),
    Column("owner", Text, nullable=False, server_default="local"),
)

jobs = Table(
    "jobs",
    metadata,
    # Arrival order over all runs; job ids are random so that they cannot be guessed.
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("job_id", Text, nullable=False, unique=True),
    Column("run_id", Text, nullable=True),
    Column("seq", Integer, nullable=True),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("started_at_s", Float, nullable=True),
    Column("finished_at_s", Float, nullable=True),
    # None once no replay can need it.
    Column("payload", LargeBinary, nullable=True),
    Column("result", LargeBinary, nullable=True),
    Column("error_json", Text, nullable=True),
    Column("plan", LargeBinary, nullable=True),
    Column("num_deaths", Integer, nullable=False, default=0),
    Column("compute_s", Float, nullable=False, default=0.0),
    Column("idempotency_scope", Text, nullable=True),
    Column("idempotency_key", Text, nullable=True),
    Column("request_digest", Text, nullable=False, default=""),
    Column("owner", Text, nullable=False, server_default="local"),
    UniqueConstraint("run_id", "seq", name="uq_jobs_run_seq"),
    UniqueConstraint("idempotency_scope", "idempotency_key", name="uq_jobs_idempotency"),
    sqlite_autoincrement=True,
)
Index("ix_jobs_status", jobs.c.status)
Index("ix_jobs_run", jobs.c.run_id, jobs.c.number)
Index("ix_jobs_owner", jobs.c.owner, jobs.c.number)

snapshots = Table(
    "snapshots",
    metadata,
    Column("run_id", Text, ForeignKey("runs.run_id", ondelete="CASCADE"), primary_key=True),
    # Operations up to and including this one are in the snapshot.
    Column("seq", Integer, primary_key=True),
    Column("step", Integer, nullable=False),
    Column("folder", Text, nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("size_bytes", Integer, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    # No foreign key: a checkpoint outlives its run.
    Column("run_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("base_model", Text, nullable=False),
    Column("lora_json", Text, nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("is_sampler", Boolean, nullable=False),
    Column("step", Integer, nullable=False),
    Column("folder", Text, nullable=False),
    Column("expires_at_s", Float, nullable=True),
    Column("is_public", Boolean, nullable=False, server_default="0"),
    Column("user_metadata_json", Text, nullable=False, server_default="{}"),
    Column("owner", Text, nullable=False, server_default="local"),
    Column("quantization", Text, nullable=False, server_default="none"),
    Column("is_pinned", Boolean, nullable=False, server_default="0"),
    Column("score", Float, nullable=True),
)

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("created_at_s", Float, nullable=False),
    Column("tags_json", Text, nullable=False),
    Column("user_metadata_json", Text, nullable=False),
    Column("display_name", Text, nullable=True),
    Column("project_id", Text, nullable=True),
    Column("status", Text, nullable=False),
    Column("owner", Text, nullable=False, server_default="local"),
)

samplers = Table(
    "samplers",
    metadata,
    Column("sampler_id", Text, primary_key=True),
    Column("session_id", Text, nullable=False),
    Column("base_model", Text, nullable=False),
    Column("created_at_s", Float, nullable=False),
    # No foreign keys: a sampler says by itself when its checkpoint is gone.
    Column("run_id", Text, nullable=True),
    Column("checkpoint", Text, nullable=True),
    Column("owner", Text, nullable=False, server_default="local"),
    # Clients besides the first: each has numbers of its own for its requests.
    Column("num_joined", Integer, nullable=False, server_default="0"),
)
Index("ix_samplers_session", samplers.c.session_id)

keys = Table(
    "keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    # Of a random text of 256 bits: nothing slower than sha256 is needed to protect it.
    Column("digest", Text, nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("expires_at_s", Float, nullable=True),
    Column("revoked_at_s", Float, nullable=True),
)
