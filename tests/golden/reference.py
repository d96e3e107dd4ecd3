#!/usr/bin/env python3
"""Tiny checkpoints and the numbers they must give, computed from the equations in double precision.

    python3 tests/golden/reference.py            writes the files beside this script
    python3 tests/golden/reference.py --check    computes them again and compares

Either takes about a minute and needs numpy. The script shares nothing with the C++ code but the
equations (docs/equations.md) and the parameters' names, so golden_test compares two independent
readings of the papers. The sizes are odd, no width is a multiple of 8, and the attention is wider
than the model.

For each generation and each type of weights there are two files of the format safetensors:

    rwkvG-TYPE.safetensors            a checkpoint, all of it float32 or all of it bfloat16
    rwkvG-TYPE-expected.safetensors   T tokens in S sequences laid end to end; all tensors float32
        tokens [T], offsets [S + 1]   the sequences, each of which starts from the empty state
        targets [T]                   what each token should predict, or -1 if it is not learned
        logits [T, V]
        state.ITEM [S, width]         the recurrent state after the last token of each sequence
        loss [1]                      mean over all targets
        l2wrap [1], gradient.PARAMETER    of the objective: the loss, and L2Wrap with this weight
    and with bfloat16 weights, what rounding costs a computation that is otherwise exact:
        rounding.logits [S], rounding.state.ITEM [1], rounding.gradient.PARAMETER [1]

The last are relative L2 errors of a run in double that rounds the output of each operator to
bfloat16, except for the residual stream, recurrent states and the logits of inference. A correct
bfloat16 kernel has an error of this size.

Gradients come from the complex step, f'(x) = Im f(x + ih) / h, which subtracts nothing and is
therefore exact. In a rounded run the imaginary part is rounded as well, in place of the gradients
of activations that a backward pass would round.
"""

import functools
import json
import pathlib
import sys
import zlib

import numpy as np

LENGTHS = [203, 37, 5, 1]  # tokens of the sequences
L2WRAP = 0.01
EPSILON = 1e-5  # of layer norm
STEP = 1e-100  # h of the complex step


# ---- Operators that the generations share ----
#
# Every parameter has an axis in front, for P variants of the model: P is 1, or in a complex step
# one for each number that is perturbed. Activations are [P, T, C] for T tokens and C channels,
# vectors [P, 1, C], matrices [P, out, in].

round_outputs = False  # whether operators round what they return


def to_bfloat16(x):
    """Eight significant bits, ties to even; of a complex number in both parts."""
    if np.iscomplexobj(x):
        return to_bfloat16(x.real) + 1j * to_bfloat16(x.imag)
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 256), exponent - 8)


def operator(f):
    """In a rounded run, rounds what f returns. `f.wide` is f without this."""

    @functools.wraps(f)
    def rounding(*arguments):
        return to_bfloat16(f(*arguments)) if round_outputs else f(*arguments)

    rounding.wide = f
    return rounding


@operator
def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + EPSILON) * weight + bias


@operator
def token_shift(x, mix):
    """Mixes x of each token with x of the one before; zero stands before the first."""
    previous = np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
    return mix * x + (1 - mix) * previous


@operator
def linear(x, weight):
    return x @ weight.swapaxes(-1, -2)


@operator
def sigmoid_gate(r, v):
    return v / (1 + np.exp(-r))


@operator
def squared_relu(x):
    return np.where(x.real > 0, x**2, 0)


def cross_entropy(logits, targets):
    """The loss of each token [P, T], and the square of its largest logit, for L2Wrap."""
    if round_outputs:
        logits = to_bfloat16(logits)
    first = logits.real.argmax(-1)[..., None]
    largest = np.take_along_axis(logits, first, -1)
    targets = np.broadcast_to(targets[:, None], first.shape)
    log_sum = largest + np.log(np.exp(logits - largest).sum(-1, keepdims=True))
    return (log_sum - np.take_along_axis(logits, targets, -1))[..., 0], largest[..., 0] ** 2


# ---- RWKV-4, arXiv 2305.13048: the numbers in brackets are its equations ----


class Rwkv4:
    name = "rwkv4"
    layers, width, attention, hidden, vocabulary = 3, 11, 13, 27, 23  # L, C, A, F, V

    @classmethod
    def parameters(cls):
        """Name, shape and range of values: some channels forget slowly, some keys are large."""
        C, A, F, V = cls.width, cls.attention, cls.hidden, cls.vocabulary
        yield "emb.weight", [V, C], -1, 1
        yield from cls.norm("blocks.0.ln0")
        for l in range(cls.layers):
            yield from cls.norm(f"blocks.{l}.ln1")
            yield from cls.norm(f"blocks.{l}.ln2")
            att, ffn = f"blocks.{l}.att.", f"blocks.{l}.ffn."
            yield att + "time_decay", [A], -8, 1
            yield att + "time_first", [A], -2, 2
            for name in ("time_mix_k", "time_mix_v", "time_mix_r"):
                yield att + name, [1, 1, C], 0, 1
            yield att + "key.weight", [A, C], -1.5, 1.5
            for name in ("value.weight", "receptance.weight"):
                yield att + name, [A, C], -0.6, 0.6
            yield att + "output.weight", [C, A], -0.6, 0.6
            for name in ("time_mix_k", "time_mix_r"):
                yield ffn + name, [1, 1, C], 0, 1
            yield ffn + "key.weight", [F, C], -0.6, 0.6
            yield ffn + "receptance.weight", [C, C], -0.6, 0.6
            yield ffn + "value.weight", [C, F], -0.4, 0.4
        yield from cls.norm("ln_out")
        yield "head.weight", [V, C], -0.6, 0.6

    @classmethod
    def norm(cls, name):
        yield name + ".weight", [cls.width], 0.5, 1.5
        yield name + ".bias", [cls.width], -0.3, 0.3

    @classmethod
    def forward(cls, p, tokens):
        """Logits [P, T, V], and the state after the last token."""

        def norm(name):
            return p[name + ".weight"], p[name + ".bias"]

        x = layer_norm.wide(p["emb.weight"][:, tokens], *norm("blocks.0.ln0"))
        state = {}
        for l in range(cls.layers):
            att, ffn = f"blocks.{l}.att.", f"blocks.{l}.ffn."
            # Time mixing
            h = layer_norm(x, *norm(f"blocks.{l}.ln1"))
            state[att + "last"] = h[:, -1]
            r = linear(token_shift(h, p[att + "time_mix_r"]), p[att + "receptance.weight"])  # (11)
            k = linear(token_shift(h, p[att + "time_mix_k"]), p[att + "key.weight"])  # (12)
            v = linear(token_shift(h, p[att + "time_mix_v"]), p[att + "value.weight"])  # (13)
            w, u = -np.exp(p[att + "time_decay"]), p[att + "time_first"]
            y, a, b = cls.wkv(w, u, k, v)
            state[att + "mean"], state[att + "log_sum"] = a / b, np.log(b)
            x = x + linear.wide(sigmoid_gate(r, y), p[att + "output.weight"])  # (17)
            # Channel mixing
            h = layer_norm(x, *norm(f"blocks.{l}.ln2"))
            state[ffn + "last"] = h[:, -1]
            r = linear(token_shift(h, p[ffn + "time_mix_r"]), p[ffn + "receptance.weight"])  # (14)
            k = linear(token_shift(h, p[ffn + "time_mix_k"]), p[ffn + "key.weight"])  # (15)
            x = x + sigmoid_gate.wide(r, linear(squared_relu(k), p[ffn + "value.weight"]))  # (18)
        return linear.wide(layer_norm(x, *norm("ln_out")), p["head.weight"]), state

    @staticmethod
    def wkv(w, u, k, v):
        """(16), with the minus sign in w. The state is the two sums a and b: no key is so large
        here that they need a common exponent."""
        a = b = 0 * (w + u + k + v)[:, 0]
        y = []
        for k, v in zip(np.moveaxis(k, 1, 0), np.moveaxis(v, 1, 0)):
            bonus = np.exp(u[:, 0] + k)
            y.append((a + bonus * v) / (b + bonus))
            a = np.exp(w[:, 0]) * a + np.exp(k) * v
            b = np.exp(w[:, 0]) * b + np.exp(k)
        return operator(np.stack)(y, 1), a, b


GENERATIONS = [Rwkv4]


# ---- Checkpoints and what is expected of them ----


def uniform(name, shape, low, high):
    """Numbers that depend on the name alone: SplitMix64 (Steele, Lea and Flood 2014)."""
    index = np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.uint64)
    z = index * np.uint64(0x9E3779B97F4A7C15) + np.uint64(zlib.crc32(name.encode()) << 32)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    fraction = (z ^ z >> np.uint64(31)) * 2.0**-64
    return (low + (high - low) * fraction).reshape(shape)


def run(generation, p, text):
    """Logits and last states of all sequences; loss and training objective, each [P]."""
    tokens, offsets, targets = text
    logits, states, loss, objective = [], [], 0, 0
    for begin, end in zip(offsets, offsets[1:]):
        z, state = generation.forward(p, tokens[begin:end])
        losses, squares = cross_entropy(z, targets[begin:end])
        weight = (targets[begin:end] >= 0) / np.count_nonzero(targets >= 0)
        loss = loss + (losses * weight).sum(-1)
        objective = objective + ((losses + L2WRAP / 2 * squares) * weight).sum(-1)
        logits.append(z)
        states.append(state)
    return logits, states, loss, objective


def gradient(generation, p, name, text):
    """Of the objective by one parameter, flat, 256 of its numbers at a time."""
    parts = []
    for index in np.array_split(np.arange(p[name].size), -(-p[name].size // 256)):
        variants = np.repeat(p[name].astype(complex), len(index), axis=0)
        variants.reshape(len(index), -1)[range(len(index)), index] += 1j * STEP
        parts.append(run(generation, {**p, name: variants}, text)[3].imag / STEP)
    return np.concatenate(parts)


def make(generation, narrow):
    """The weights, after `narrow` has rounded them, and what is expected of them."""
    global round_outputs
    weights = {name: narrow(uniform(name, *values)) for name, *values in generation.parameters()}
    p = {name: np.float64(w).reshape(1, -1, w.shape[-1]) for name, w in weights.items()}
    count = sum(LENGTHS)
    tokens = np.int64(uniform("tokens", [count], 0, generation.vocabulary))
    targets = np.int64(uniform("targets", [count], 0, generation.vocabulary))
    targets[uniform("learned", [count], 0, 1) > 0.9] = -1
    text = tokens, np.cumsum([0, *LENGTHS]), targets

    def results():
        logits, states, loss, _ = run(generation, p, text)
        result = {"logits": np.concatenate(logits, 1)[0], "loss": loss}
        for item in states[0]:
            result["state." + item] = np.concatenate([state[item] for state in states])
        for name, w in weights.items():
            result["gradient." + name] = gradient(generation, p, name, text).reshape(w.shape)
        return result

    expected = results()
    if narrow is to_bfloat16:
        round_outputs = True
        rounded = results()
        round_outputs = False
        del rounded["loss"]  # a single number, which may be close by chance
        for name, value in rounded.items():
            parts = text[1][1:-1] if name == "logits" else []  # of each sequence by itself
            pairs = zip(np.split(value, parts), np.split(expected[name], parts))
            errors = [np.linalg.norm(x - exact) / np.linalg.norm(exact) for x, exact in pairs]
            expected["rounding." + name] = np.array(errors)
    names = ["tokens", "offsets", "targets", "l2wrap"]
    return weights, {**dict(zip(names, [*text, np.array([L2WRAP])])), **expected}


# ---- Files ----


def encode(tensors, dtype):
    """safetensors: the length of a JSON header, the header, the numbers."""
    header, data = {}, b""
    for name, value in tensors.items():
        bits = np.float32(value).view(np.uint32)
        stored = (bits if dtype == "F32" else np.uint16(bits >> 16)).tobytes()
        place = [len(data), len(data) + len(stored)]
        header[name] = {"dtype": dtype, "shape": value.shape, "data_offsets": place}
        data += stored
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def difference(path, encoded):
    """What in a committed file is not as computed, or None. The last bits of a double depend on
    numpy's version and on the processor."""
    if not path.exists():
        return "is missing"
    stored = path.read_bytes()
    size = 8 + int.from_bytes(encoded[:8], "little")
    if stored[:size] != encoded[:size] or len(stored) != len(encoded):
        return "has other tensors"
    if not path.name.endswith("-expected.safetensors"):
        return None if stored == encoded else "has other weights"
    for name, entry in json.loads(encoded[8:size]).items():
        begin, end = (size + offset for offset in entry["data_offsets"])
        actual, expected = (np.frombuffer(x[begin:end], "<f4") for x in (stored, encoded))
        # A last bit may change where a number is rounded, and thereby what rounding costs.
        relative = 0.05 if name.startswith("rounding.") else 2.0**-22
        tolerance = relative * np.abs(expected) + 1e-9 * np.abs(expected).max()
        if not np.all(np.abs(actual - expected) <= tolerance):
            return f"differs in {name}"
    return None


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    failed = False
    for generation in GENERATIONS:
        for weight_type, dtype, narrow in [
            ("float32", "F32", np.float32),
            ("bfloat16", "BF16", to_bfloat16),
        ]:
            weights, expected = make(generation, narrow)
            path = pathlib.Path(__file__).parent / f"{generation.name}-{weight_type}.safetensors"
            for path, encoded in [
                (path, encode(weights, dtype)),
                (path.with_stem(path.stem + "-expected"), encode(expected, "F32")),
            ]:
                if sys.argv[1:]:
                    wrong = difference(path, encoded)
                    print(path.name, wrong or "is as computed")
                    failed |= wrong is not None
                else:
                    path.write_bytes(encoded)
    sys.exit(failed)


if __name__ == "__main__":
    main()
