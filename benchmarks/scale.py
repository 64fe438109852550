"""How a step grows with the batch, the context, the width and the vocabulary, every position
scored."""

from benchmarks.apart import Apart
from benchmarks.measure import Progress, interleave, summary, table
from benchmarks.rows import LECTURE, Row, SizedTask
from benchmarks.step import library_peers, npnet_peer


def transformer(B, T, C, n_layer=4):
    sizes = {"n_embd": C, "n_layer": n_layer, "n_head": max(4, C // 64)}
    return Row("transformer", block_size=T, batch_size=B, sizes=sizes), 27


def mlp(V):
    return Row("mlp", LECTURE, 3, sizes={"n_embd": 10, "n_embd2": 200}), V


# What grows -> its label, and for each of its values a row and the size of the vocabulary
SERIES = {
    "batch": (
        "examples a batch (Transformer, T = 16, C = 64)",
        {B: transformer(B, 16, 64) for B in (1, 4, 16, 64, 256)},
    ),
    "context": (
        "context T (Transformer, C = 128, 2048 tokens a batch)",
        {T: transformer(2048 // T, T, 128) for T in (16, 32, 64, 128, 256)},
    ),
    "width": (
        "width C (Transformer, T = 32, 512 tokens a batch)",
        {C: transformer(16, 32, C) for C in (32, 64, 128, 256, 384)},
    ),
    "vocabulary": (
        "vocabulary V (the notebook's MLP)",
        {V: mlp(V) for V in (27, 64, 128, 256, 512, 513, 1024, 4096)},
    ),
    "large": (
        "context T (Transformer, C = 384, 6 layers, 1024 tokens a batch)",
        {T: transformer(1024 // T, T, 384, 6) for T in (64, 256)},
    ),
}


def measure(names=None, seconds=0.3):
    """series -> value -> name -> {"seconds", "ratio"}."""
    names = names or list(SERIES)
    progress = Progress("scale", sum(len(SERIES[name][1]) for name in names))
    found = {}
    with Apart() as apart:
        for series in names:
            found[series] = {}
            for value, (row, vocab_size) in SERIES[series][1].items():
                progress.say(f"{series} {value}")
                task = SizedTask(f"{series} {value}", row, vocab_size)
                peers, others = {"npnet": npnet_peer(task)}, apart.makers(library_peers, task)
                if "torch" in others:
                    peers["torch"] = others["torch"]()
                found[series][value] = summary(interleave(peers, seconds))
                progress.advance()
    return found


def show(found):
    for series, points in found.items():
        print(SERIES[series][0])
        print()
        lines = [["npnet ms", *(f"{p['npnet']['seconds'] * 1e3:.3g}" for p in points.values())]]
        torch = [p.get("torch") for p in points.values()]
        lines.append(["torch ms", *(t and f"{t['seconds'] * 1e3:.3g}" for t in torch)])
        lines.append(["npnet / torch", *(t and f"{t['ratio']:.2f}" for t in torch)])
        print(table([series, *points], lines))
        print()


def plot(found, file):
    """One panel a series: milliseconds a step against the size, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3.6 * columns, 3.2 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis, (series, points) in zip(axes.flat, found.items(), strict=False):
        for name, marker in (("npnet", "o"), ("torch", "s")):
            times = {v: p[name]["seconds"] * 1e3 for v, p in points.items() if name in p}
            axis.loglog(list(times), list(times.values()), marker=marker, label=name)
        low, high = axis.get_ylim()
        axis.set_ylim(low / 2, high * 2)  # or a few per cent would fill a panel
        label, _, about = SERIES[series][0].partition(" (")
        axis.set(xlabel=label, ylabel="ms a step")
        axis.set_title(about.rstrip(")"), fontsize=8)
        axis.minorticks_off()
        ticks = [value for value in points if value != 513]
        axis.set_xticks(ticks, map(str, ticks), fontsize=8)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.savefig(file)
    pyplot.close(figure)
