"""The memory that a training will take, worked out before it starts: the only place with this arithmetic.

Every term is in bytes, with a name. On a GPU the terms of one phase (training, sampling, ...) exist at the same
time; the plan is about the phase with the largest sum. What it rests on:

- fp32 weights, gradients and two moments of Adam for every trained parameter, 16 bytes, sharded over the GPUs with
  FSDP. When an update of SFT has several passes, accelerate accumulates whole gradients on every GPU and shards
  them in the last pass;
- bf16 copies of the weights for matrix products: autocast keeps those of all layers through a forward pass of an
  unsharded model; FSDP gathers one layer at a time;
- with gradient checkpointing, the input of every layer and everything inside one layer; without it, everything
  inside all layers (counted in transformers' Qwen3, with its norms in fp32);
- logits of a chunk of tokens for the loss, never all of them.

Calibrated against the measured peaks in tests/srt/common/test_memory_plan.py, which it meets within TOLERANCE.
They are of dense models; for a mixture of experts it is less certain.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from srt.common.errors import UserError
from srt.common.machine import Machine

GIB = 2**30
TOLERANCE = 0.15  # relative difference between plans and measured peaks
OTHER = 3 * GIB // 2  # on a GPU: CUDA's context, NCCL's buffers, fragments; not part of torch's measured peaks
PROCESS = int(3.5 * GIB)  # host memory of a process that has loaded torch and CUDA
NEMO_RL_HEADS = 12  # bytes: the student's gathered in fp32, its gradient, what FSDP reduces that from (calibrated)
BACKWARD = 1.7  # what is saved inside a layer, and the gradients on the way through it (calibrated)
LOSS_TOKENS, KL_BYTES, SFT_LOSS_BYTES = 1024, 24, 8  # tokens of a chunk; bytes for each of its logits
PINNED = 1.25  # pinned memory comes in powers of two
RAY_OBJECT_STORE = 4 * GIB

Terms = dict[str, int]


@dataclass(frozen=True)
class ModelShape:
    """A causal language model, as far as its memory is concerned. `width`: of the hidden states; `queries` and
    `keys`: heads x head size; `inner`: of the MLP, over the experts that a token takes."""

    parameters: int
    vocab: int
    layers: int
    width: int
    inner: int
    queries: int
    keys: int

    @classmethod
    def of(cls, config: Any, parameters: int) -> "ModelShape":
        """`config`: a transformers config."""
        text = config.get_text_config()

        def number(name: str, default: int) -> int:
            """Some configs lack an entry, have none of it, or one for each layer."""
            value = getattr(text, name, None)
            value = max(value) if isinstance(value, list) and value else value
            return value if isinstance(value, int) and value else default

        heads = number("num_attention_heads", 1)
        head_size = number("head_dim", text.hidden_size // heads)
        inner = number("intermediate_size", 4 * text.hidden_size)
        if experts := number("num_experts_per_tok", 0):
            inner = experts * number("moe_intermediate_size", inner)
        return cls(
            parameters,
            text.vocab_size,
            text.num_hidden_layers,
            text.hidden_size,
            inner,
            heads * head_size,
            number("num_key_value_heads", heads) * head_size,
        )

    def adapters(self, rank: int) -> int:
        """Parameters of low-rank adapters on all linear layers but the LM head."""
        attention = 2 * (self.width + self.queries) + 2 * (self.width + self.keys)
        return rank * self.layers * (attention + 3 * (self.width + self.inner))

    @property
    def head(self) -> int:
        """Parameters of the LM head."""
        return self.vocab * self.width

    def activations(self, tokens: int, checkpointing: bool, residual_bytes: int, tensor_parallel: int = 1) -> int:
        """Between the layers and inside them, for one forward and backward pass over `tokens`.

        residual_bytes: of a number in the hidden states between layers: 2 under FSDP's bf16, 4 under autocast.
        tensor_parallel: GPUs that share the heads and the MLP of each layer.
        """
        split = (24 * self.queries + 20 * self.keys + 8 * self.inner) // tensor_parallel
        inside = tokens * (28 * self.width + split)
        between = self.layers * tokens * self.width * residual_bytes
        return between + int(BACKWARD * inside) if checkpointing else self.layers * inside

    def scoring(self, tokens: int, tensor_parallel: int = 1) -> int:
        """Inside a layer, for one forward pass over `tokens` in bf16 that saves nothing.

        Not calibrated: it was never the largest term of what was measured.
        """
        split = max(6 * self.inner, 8 * self.queries + 8 * self.keys) // tensor_parallel
        return tokens * (8 * self.width + split)


@dataclass(frozen=True)
class MemoryPlan:
    """`gpu`: phase -> its terms, in bytes on each GPU; empty without a GPU. `host`: terms on each machine.

    `gpu_available`, `host_available`: bytes that are free; None: unknown. `changes`: what makes the plan smaller.
    `rows`: what the longest sequences take, in words.
    """

    title: str
    gpu: Mapping[str, Terms]
    host: Terms
    gpu_available: int | None
    host_available: int | None
    changes: list[str] = field(default_factory=list)
    rows: str = ""

    @property
    def phase(self) -> str | None:
        """The phase that takes the most GPU memory."""
        return max(self.gpu, key=lambda phase: sum(self.gpu[phase].values()), default=None)

    @property
    def gpu_bytes(self) -> int:
        return sum(self.gpu[self.phase].values()) if self.phase else 0

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())

    @property
    def fits(self) -> bool:
        return not (
            exceeds(self.gpu_bytes, self.gpu_available if self.gpu else None)
            or exceeds(self.host_bytes, self.host_available)
        )

    def line(self) -> str:
        """Fits or does not, and the three largest terms."""
        parts = []
        if self.phase:
            amount = _of(self.gpu_bytes, self.gpu_available)
            parts.append(f"{amount} on each GPU while {self.phase} ({largest(self.gpu[self.phase])})")
        parts.append(f"{_of(self.host_bytes, self.host_available)} of main memory ({largest(self.host)})")
        return f"memory of {self.title}: {'fits' if self.fits else 'does NOT fit'}: about {'; '.join(parts)}"

    def table(self, machine: Machine) -> str:
        """All terms of every phase, in GiB; `machine`: that of the plan."""
        where = f" for PLAN_FOR={machine.stated}" if machine.stated else ""
        lines = [f"memory plan of {self.title}{where}, GiB" + (" on each GPU" if self.gpu else "")]
        phases = dict(self.gpu) | {"main memory" + (" of a machine" if self.gpu else ""): self.host}
        width = max(map(len, phases))
        for phase, terms in phases.items():
            lines.append(f"  {phase:<{width}} {sum(terms.values()) / GIB:7.1f}: {largest(terms, len(terms))}")
        return "\n".join([*lines, self.line()])

    def advice(self) -> str | None:
        """Why a plan does not fit, and what would; None for one that does."""
        if self.fits:
            return None
        return f"{self.rows}. " * bool(self.rows) + f"Try {', or '.join(self.changes)}"

    def check(self, stop: bool) -> None:
        """Print the line. `stop` (CHECK_MEMORY): raises UserError, instead, for a plan that does not fit."""
        if self.fits or not stop:
            print(self.line())
            return
        raise UserError(f"{self.line()}. {self.advice()}; CHECK_MEMORY=0 starts all the same")


def exceeds(required: int, available: int | None) -> bool:
    return available is not None and required > available


def largest(terms: Terms, count: int = 3) -> str:
    """The largest terms with their size."""
    ordered = sorted(terms.items(), key=lambda term: -term[1])[:count]
    return ", ".join(f"{name} {size / GIB:.1f}" for name, size in ordered if size)


def _of(required: int, available: int | None) -> str:
    return (
        f"{required / GIB:.1f} GiB" if available is None else f"{required / GIB:.1f} of {available / GIB:.1f} GiB"
    )


def make_plan(
    title: str,
    terms: tuple[dict[str, Terms], Terms],
    machine: Machine,
    processes: int,
    changes: list[str],
) -> MemoryPlan:
    """The plan for this machine. `terms`: from one of the functions below; `processes`: that train on it.

    Without a GPU everything is in main memory, and there is no CUDA, which makes processes large.
    """
    phases, host = terms
    if machine.gpus:
        return MemoryPlan(title, phases, host, machine.gpu_bytes, machine.host_bytes, changes)
    largest_phase = max(phases.values(), key=lambda phase: sum(phase.values()))
    host = host | {name: size * processes for name, size in largest_phase.items()}
    host = {name: size for name, size in host.items() if name not in ("processes", "other")}
    return MemoryPlan(title, {}, host, None, machine.host_bytes, changes)


# The plans -------------------------------------------------------------------------------------------------


def sft_terms(
    shape: ModelShape,
    *,
    tokens: int,
    processes: int,
    machines: int,
    several_passes: bool,
    checkpointing: bool,
    trained: int,
) -> tuple[dict[str, Terms], Terms]:
    """GPU and host terms of SFT, the host's on the machine of rank 0.

    tokens: of the longest forward pass; processes: on all machines, one for each GPU; trained: parameters in
    training (all, or those of the adapters).
    """
    sharded = processes > 1
    whole_gradients = sharded and several_passes
    loss = SFT_LOSS_BYTES * LOSS_TOKENS * shape.vocab + 4 * shape.head  # and the gradient of the head
    if sharded:
        loss += 4 * shape.head  # TRL gathers the head in fp32
        copies = 2 * shape.head + 8 * _layer(shape)  # gathered: the head, and two layers in and out
    else:
        copies = 2 * (shape.parameters - shape.head)
    gpu = {
        "weights": 4 * shape.parameters // processes,
        "gradients": 4 * trained // (1 if whole_gradients else processes),
        "Adam's moments": 8 * trained // processes,
        "weights in bf16": copies,
        "activations": shape.activations(tokens, checkpointing, 2 if sharded else 4),
        "loss": 0,
        "other": OTHER,
    }
    between = shape.layers * tokens * shape.width * (2 if sharded else 4) if checkpointing else gpu["activations"]
    at_loss = gpu | {"activations": between, "loss": loss}
    if not sharded and checkpointing:  # recomputing makes the copies of one layer
        gpu["weights in bf16"] = 2 * _layer(shape)
    host = {
        # Rank 0 loads and saves whole models and optimizer states, one after the other.
        "a whole copy": max(4 * shape.parameters, 8 * trained),
        "processes": processes // machines * PROCESS,
    }
    return {"training": gpu, "computing the loss": at_loss}, host


def local_terms(
    shape: ModelShape,
    *,
    student_tokens: int,
    update_tokens: int,
    checkpointing: bool,
    trained: int,
    separate_teacher: bool,
    offload: bool,
    all_vocab_entries: bool,
    sampler_bytes: int,
) -> tuple[dict[str, Terms], Terms]:
    """GPU and host terms of ENGINE=local.

    student_tokens: of a micro-batch; update_tokens: responses' tokens of an update; sampler_bytes: vLLM's share of
    the GPU. Without `separate_teacher` the teacher is the student without its adapter.
    """
    weights = (4 if separate_teacher else 2) * shape.parameters
    moments, teacher = 8 * trained, 2 * shape.parameters if separate_teacher else 0
    training = {
        "student": weights,
        "gradients": 4 * trained,
        "Adam's moments": 0 if offload else moments,
        "teacher": 0 if offload else teacher,
        "weights in bf16": 2 * (shape.parameters - shape.head) if separate_teacher else 0,
        "activations": shape.layers * student_tokens * shape.width * 4,
        "KL": _kl(shape, all_vocab_entries),
        "heads": 4 * shape.head,
        "teacher's hidden states": 2 * shape.width * update_tokens if offload else 0,
        "other": OTHER,
    }
    if not checkpointing:
        training["activations"] = shape.activations(student_tokens, False, 4)
    backward = training | {
        "activations": shape.activations(student_tokens, checkpointing, 4),
        "weights in bf16": 2 * _layer(shape) if checkpointing else training["weights in bf16"],
        "KL": 4 * shape.head if separate_teacher else 0,
    }
    update = {"student": weights, "gradients": 4 * trained, "Adam's moments": moments, "other": OTHER}
    sampling = {"student": weights, "sampler": sampler_bytes, "other": OTHER}
    if not offload:
        update |= {"teacher": teacher}
        sampling |= {"teacher": teacher, "Adam's moments": moments}
    host = {"loading the student": 4 * shape.parameters, "processes": PROCESS}
    if offload:
        host = {
            "Adam's moments": int(PINNED * moments),
            "teacher": int(PINNED * teacher),
            "processes": PROCESS,
        }
    phases = {"computing the KL": training, "training": backward, "updating": update, "sampling": sampling}
    return phases, host


def nemo_rl_terms(
    shape: ModelShape,
    *,
    gpus: int,
    nodes: int,
    student_tokens: int,
    step_tokens: int,
    checkpointing: bool,
    all_vocab_entries: bool,
    sampler_bytes: int,
    teacher_tokens: int = 0,
    tensor_parallel: int = 1,
    sampler_copy: int = 0,
    megatron_parallel: int | None = None,
    megatron_state: int = 12,
) -> tuple[dict[str, Terms], Terms]:
    """GPU and host terms of ENGINE=nemo-rl, the host's on each node. `gpus`: on all nodes.

    student_tokens, teacher_tokens: of a micro-batch; step_tokens: responses' tokens of a step, over all GPUs;
    sampler_bytes: vLLM's share of a GPU; sampler_copy: what vLLM keeps in main memory of a GPU's weights while it
    sleeps. tensor_parallel: GPUs that share a layer, and the vocabulary in the KL; above 1 measured under Megatron
    alone.
    megatron_parallel: under Megatron, the GPUs that share bf16 weights and fp32 gradients; master weights are with
    Adam's moments, which all GPUs share: megatron_state bytes a parameter, 12 or, with Transformer Engine's Adam,
    10, since it keeps of a master weight only what the bf16 weight lacks (store_param_remainders). None: FSDP,
    under which they share everything.
    """
    if megatron_parallel is None:
        student, gradients, moments = (size * shape.parameters // gpus for size in (4, 4, 8))
    else:
        student, gradients = (size * shape.parameters // megatron_parallel for size in (2, 4))
        moments = megatron_state * shape.parameters // gpus
    sharded = {"student": student, "gradients": gradients, "Adam's moments": moments}
    training = sharded | {
        "activations": shape.layers * student_tokens * shape.width * 2,
        "KL": _kl(shape, all_vocab_entries) // tensor_parallel,
        "heads": NEMO_RL_HEADS * shape.head // tensor_parallel,
        "gathered layers": 8 * _layer(shape) // tensor_parallel,
        # Ranks that share layers have the same ones.
        "teacher's hidden states": 2 * shape.width * step_tokens * tensor_parallel // gpus,
        "other": OTHER,
    }
    if not checkpointing:
        training["activations"] = shape.activations(student_tokens, False, 2, tensor_parallel)
    activations = shape.activations(student_tokens, checkpointing, 2, tensor_parallel)
    backward = training | {"activations": activations, "KL": 0}
    # The teacher is in the student's place, whose weights are in main memory; there are no gradients yet.
    scoring = {
        "teacher": student,
        "Adam's moments": moments,
        "activations": shape.scoring(teacher_tokens, tensor_parallel),
        "heads": 4 * shape.head // tensor_parallel,
        "gathered layers": training["gathered layers"],
        "teacher's hidden states": training["teacher's hidden states"],
        "other": OTHER,
    }
    sampling = {"sampler": sampler_bytes, "other": OTHER}
    per_node = gpus // nodes
    host = {
        "student's weights": int(PINNED * student * per_node),
        "Adam's moments": int(PINNED * moments * per_node),
        "teacher": int(PINNED * student * per_node),
        "sampler's weights": sampler_copy * per_node,
        "processes": (2 * per_node + 1) * PROCESS,
        "Ray": RAY_OBJECT_STORE,
    }
    phases = {"scoring": scoring, "computing the KL": training, "training": backward, "sampling": sampling}
    return phases, host


def _layer(shape: ModelShape) -> int:
    return max(0, shape.parameters - shape.head) // shape.layers


def _kl(shape: ModelShape, all_vocab_entries: bool) -> int:
    """With few vocab entries in the gradient, what was measured is 2 GiB less (1.4 instead of 3.5)."""
    return int((KL_BYTES if all_vocab_entries else 0.4 * KL_BYTES) * LOSS_TOKENS * shape.vocab)
