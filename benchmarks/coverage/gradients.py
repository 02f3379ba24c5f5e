"""Every operator at every version: autograd of the converted graph against central differences, in float64.

    python -m benchmarks.coverage.gradients [OPERATOR …]

Examples are those of the onnx package, brought into the older forms (`gradient_forms`), or hand-written
(`gradient_cases`). Their numbers are moved a little, off the kinks. Where onnxruntime has the operator at that
version, the forward is compared with it too: an older version may mean something else by the same form.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxcake.graph.module import Graph
from onnxcake.graph.registry import CONVERTERS, find

from .common import NotConverted, keep, kept, one_line, session, table, with_data
from .gradient_cases import cases, no_gradient, straight_through
from .gradient_forms import Example, examples, versions

RELATIVE, STEP = 1e-3, 1e-6
_ALONE = 24  # numbers of one input that are moved one by one; of larger inputs, random directions are taken too


def moved(array: Any, random: np.random.Generator) -> Any:
    """Floating-point numbers a little off, so that none lies on a kink and no two are equal; others as they are."""
    array = np.asarray(array)
    if array.dtype.kind != "f":
        return array
    off = array * (1 - 0.02 * random.random(array.shape))
    return np.where(array == 0, 0.02 * random.random(array.shape), off).astype(np.float64)


def flat(outputs: list[Any]) -> list[Tensor]:
    """The floating-point outputs, those in sequences too."""
    every = [out for one in outputs for out in (one if isinstance(one, list) else [one])]
    return [out for out in every if isinstance(out, Tensor) and out.is_floating_point()]


def compare(graph: Graph, inputs: list[Tensor]) -> tuple[float, bool]:
    """The largest relative error of the gradient in floating-point inputs, and whether there is any gradient."""
    random = torch.Generator().manual_seed(0)
    xs = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    outs = flat(graph.run(1, *xs))
    if not any(out.requires_grad for out in outs):
        return 0.0, False
    # An output without gradient (one that is stored beside the result, say) does not count.
    weights = [torch.randn(o.shape, generator=random, dtype=o.dtype) if o.requires_grad else None for o in outs]

    def value(outs: list[Tensor]) -> Tensor:
        return torch.stack([(o * w).sum() for o, w in zip(outs, weights, strict=True) if w is not None]).sum()

    places = [index for index, x in enumerate(xs) if x.requires_grad]
    gradients = torch.autograd.grad(value(outs), [xs[index] for index in places], allow_unused=True)
    worst, largest = 0.0, 0.0
    with torch.no_grad():
        for index, gradient in zip(places, gradients, strict=True):
            for direction in _directions(inputs[index], random):
                ends = []
                for sign in (1, -1):
                    at = [*inputs[:index], inputs[index] + sign * STEP * direction, *inputs[index + 1 :]]
                    ends.append(float(value(flat(graph.run(1, *at)))))
                slope = (ends[0] - ends[1]) / (2 * STEP)
                found = 0.0 if gradient is None else float((gradient * direction).sum())
                worst, largest = max(worst, abs(slope - found)), max(largest, abs(slope), abs(found))
    return worst / max(largest, 1e-3), largest > 0


def _directions(x: Tensor, random: torch.Generator) -> Iterator[Tensor]:
    places = torch.randperm(x.numel(), generator=random)[:_ALONE]
    for place in places.tolist():
        one = torch.zeros(x.numel(), dtype=x.dtype)
        one[place] = 1
        yield one.reshape(x.shape)
    if x.numel() > _ALONE:
        for _ in range(4):
            yield torch.randn(x.shape, generator=random, dtype=x.dtype)


def check(example: Example) -> str:
    """ "ok", "no gradient", or what is wrong.

    Raises:
        NotConverted: if it is not converted, however few of its inputs are data.
    """
    random = np.random.default_rng(0)
    off = [moved(array, random) for array in example.arrays]
    floats = [index for index, array in enumerate(off) if np.asarray(array).dtype.kind == "f"]
    refusal: NotConverted | None = None
    for chosen in [set(floats), *({index} for index in floats)]:
        arrays = [off[i] if i in chosen else array for i, array in enumerate(example.arrays)]
        try:
            graph, fed = with_data(example.model, arrays, lambda i, _: i in chosen, torch.float64)  # noqa: B023
        except NotConverted as error:
            refusal = refusal or error
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            error, some = compare(graph, fed)
        if not error <= RELATIVE:
            return f"gradient differs by {error:.1e}"
        if not some and len(chosen) > 1:
            continue
        return _forward(example) or ("ok" if some else "no gradient")
    if refusal is not None:
        raise refusal
    return "no gradient"


def _forward(example: Example) -> str:
    """What is wrong with the forward, as onnxruntime sees it; "" where it agrees or does not have the operator."""
    if "training" in example.name:  # is random there
        return ""
    arrays = [np.asarray(array) for array in example.arrays]
    try:
        run = session(example.model)
        names = [value.name for value in example.model.graph.input]
        wanted = run.run(None, dict(zip(names, arrays, strict=True)))
    except Exception:  # noqa: BLE001 - it has not this operator at this version, or not for this type
        return ""
    graph, fed = with_data(example.model, arrays, lambda *_: False, None)
    for got, want in zip(graph.run(1, *fed), wanted, strict=False):
        if isinstance(want, np.ndarray) and want.dtype.kind == "f":
            if got.shape != want.shape:
                return f"forward has shape {tuple(got.shape)}, {want.shape} in onnxruntime"
            plain = np.abs(want) < 1e30  # what is masked out is −∞ for one, the lowest number for the other
            if not plain.any():
                continue
            rtol, atol = (1e-2, 1e-2) if want.dtype == np.float16 else (1e-3, 1e-4)
            if not np.allclose(got.numpy()[plain], want[plain], rtol, atol * max(1, np.abs(want[plain]).max())):
                return "forward differs from onnxruntime's"
    return ""


def judge(domain: str, name: str, version: int) -> tuple[str, str]:
    """One operator at one version: ("ok", "none", "failed", "no case" or "not converted"; a remark)."""
    if not domain and name in ("QuantizeLinear", "DequantizeLinear"):
        wrong = straight_through(version)
        return ("failed", wrong) if wrong else ("ok", "")
    tried = [*examples(domain, name, version), *cases(domain, name, version)]
    reason = no_gradient(domain, name)
    results, refused = Counter[str](), Counter[str]()
    for example in tried:
        try:
            results[check(example)] += 1
        except NotConverted as error:
            refused[str(error)] += 1
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is the result
            results[f"{example.name}: {one_line(error)}"] += 1
    wrong = [f"{why} (×{n})" for why, n in results.items() if why not in ("ok", "no gradient")]
    if reason is not None and not results["ok"]:
        return "none", reason
    if wrong:
        return "failed", "; ".join(wrong)
    if results["ok"]:
        return "ok", ""
    if refused:
        missing = (domain, name) not in CONVERTERS
        return "not converted" if missing else "failed", refused.most_common(1)[0][0]
    return ("failed", "no gradient") if results else ("no case", "")


def run(names: list[str] | None = None) -> None:
    """Judges all operators, or those named, prints and keeps the results."""
    find("", "")  # loads the converters
    known = versions()
    found: dict[str, Any] = (kept("gradients") or {}) if names else {}
    for domain, name in sorted({*known, *CONVERTERS}):
        if names and name not in names:
            continue
        rows = {}
        for version in known.get((domain, name), [1]):
            status, remark = judge(domain, name, version)
            rows[str(version)] = [status, remark]
            print(f"{domain or 'ai.onnx'} {name} {version}: {status} {remark}", flush=True)
        found[f"{domain}:{name}"] = rows
    keep("gradients", found)


def summary() -> list[list[str]]:
    """The row of the summary."""
    counts = Counter(status for versions in (kept("gradients") or {}).values() for status, _ in versions.values())
    if not counts:
        return []
    measured = (
        f"{counts['ok']} agree, {counts['failed']} fail, {counts['none']} have none, "
        f"{counts['not converted']} not converted, {counts['no case']} without example"
    )
    return [["gradient of each operator at each version", f"{RELATIVE:g} relative, none skipped", measured]]


def section() -> str:
    """The part of the document."""
    found = kept("gradients")
    if not found:
        return ""
    groups: dict[str, dict[str, dict[str, list[str]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    counts = Counter[str]()
    for key, rows in found.items():
        domain, name = key.rsplit(":", 1)
        for version, (status, remark) in rows.items():
            groups[status][remark][f"{domain}.{name}" if domain else name].append(version)
            counts[status] += 1

    def names(group: dict[str, list[str]]) -> str:
        return ", ".join(f"{name} {' '.join(at)}" for name, at in sorted(group.items()))

    text = [
        "## Gradients by operator and version",
        f"Autograd against central differences in float64, {RELATIVE:g} relative; the version that opset 7 has counts "
        f"as 7. {counts['ok']} operator versions agree, {counts['none']} have no gradient, {counts['failed']} fail, "
        f"{counts['not converted']} have no converter, {counts['no case']} have no example.",
        f"Agree: {names(groups['ok'][''])}.",
    ]
    text += [f"No gradient, {why}: {names(group)}." for why, group in sorted(groups["none"].items())]
    bad = [[names(group), why] for status in ("failed", "not converted") for why, group in groups[status].items()]
    if bad:
        text.append(table(["does not pass", "why"], bad))
    if groups["no case"]:
        text.append(f"No example: {names(groups['no case'][''])}.")
    return "\n\n".join(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    run(parser.parse_args().names)
    print(section())
