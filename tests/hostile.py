"""Checkpoints that somebody made in order to hurt: `crafted` makes them from the parts of a good
file with one thing wrong in each, `damaged` changes a file at random."""

import io
import json
import struct
import zlib

import numpy as np

HUGE = 10**9
WRONG_VALUES = (
    None,
    True,
    -1,
    0,
    0.5,
    1e300,
    float("nan"),
    float("inf"),
    10**400,
    "",
    "x\x1b[2J\ny",
    "y" * 100_000,
    "\ud800",
    [],
    [[]] * 1000,
    {},
    {"a": {"b": []}},
)


class Member:
    """A member of a zip archive, with what its headers say about it."""

    def __init__(self, name, data, method=0, flags=0, length=None, offset=None, checksum=None):
        self.name, self.data, self.method, self.flags = name.encode(), data, method, flags
        self.length = len(data) if length is None else length
        self.stored = self.length if method == 0 else len(data)
        self.checksum = zlib.crc32(data) if checksum is None else checksum
        self.offset = offset


def archive(members, count=None, comment=b"", directory_length=None):
    file, directory = io.BytesIO(), io.BytesIO()
    for m in members:
        offset = file.tell() if m.offset is None else m.offset
        rest = (m.flags, m.method, 0, 0, m.checksum, m.stored, m.length, len(m.name), 0)
        file.write(struct.pack("<4s5H3I2H", b"PK\3\4", 20, *rest) + m.name + m.data)
        head = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, *rest, 0, 0, 0, 0, offset)
        directory.write(head + m.name)
    start, length = file.tell(), directory.tell()
    n = len(members) if count is None else count
    length = length if directory_length is None else directory_length
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, n, n, length, start, len(comment))
    return file.getvalue() + directory.getvalue() + end + comment


def npy(array=None, descr="<f4", shape="()", data=b"", order="False", header=None):
    """The bytes of an array, or of what a header says that is given as text."""
    if array is not None:
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        return file.getvalue()
    if header is None:
        header = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) % 65536) + header.encode() + data


def text(head):
    return np.array(head if isinstance(head, str) else json.dumps(head))


def crafted(path):
    """Name -> bytes: hostile relatives of the good checkpoint at `path`."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    head = json.loads(str(arrays.pop("meta")))
    packed = {name: Member(f"{name}.npy", npy(array)) for name, array in arrays.items()}

    def build(head=head, replace=None, more=(), **options):
        members = {"meta": Member("meta.npy", npy(text(head))), **packed}
        for name, member in (replace or {}).items():
            members[name] = Member(f"{name}.npy", member) if isinstance(member, bytes) else member
        return archive([m for m in members.values() if m] + list(more), **options)

    def described(member):
        name = next(iter(packed))
        return build(replace={name: member})

    first = next(name for name in arrays if name.startswith("parameter/"))
    variance = next((name for name in arrays if name.endswith("running_var")), "buffer/none")
    square = "optimizer/square"
    for name in (variance, square):
        arrays.setdefault(name, np.zeros(1, np.float32))
    data = npy(arrays[first])
    zeros = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = zeros.compress(bytes(200_000_000)) + zeros.flush()
    files = {
        "a compressed bomb": described(Member(f"{first}.npy", bomb, 8, length=200_000_000)),
        "an encrypted member": described(Member(f"{first}.npy", data, flags=1)),
        "a member twice": build(more=[Member(f"{first}.npy", data)]),
        "two members in one place": build(more=[Member("a.npy", data, offset=0)]),
        "a member longer than the file": described(Member(f"{first}.npy", data, length=HUGE)),
        "a member beyond the file": described(Member(f"{first}.npy", data, offset=HUGE)),
        "a wrong checksum": described(Member(f"{first}.npy", data, checksum=1)),
        "a name that is no text": archive([Member("\x1b]0;pwned\x07\n" * 20, data)] * 2),
        "a name of 60,000 characters": build(more=[Member("a" * 60_000, data)]),
        "60,000 empty members": build(more=[Member("a", b"")] * 60_000),
        "30,000 members": build(
            more=[Member(f"{i}.npy", npy(np.zeros(()))) for i in range(30_000)]
        ),
        "more members than there are": build(count=60_000),
        "a directory of 4 GB": build(directory_length=2**32 - 1),
        "a comment": build(comment=b"PK\5\6" * 1000),
        "a pickle": described(npy(np.array([{}]))),
        "a shape of 10^18": described(npy(shape="(1000000000, 1000000000)")),
        "a shape of 900 digits": described(npy(shape=f"({'9' * 900},)")),
        "a negative shape": described(npy(shape="(-1,)")),
        "many axes": described(npy(shape=f"({'0, ' * 300})")),
        "an itemsize of 0": described(npy(descr="<U0", shape="(1000000000,)")),
        "a string of 10^9": described(npy(descr=f"<U{HUGE}")),
        "a string beyond all sizes": described(npy(descr="<U99999999999999999999")),
        "no such dtype": described(npy(descr="<z9")),
        "dates": described(npy(np.zeros(3, "datetime64[s]"))),
        "Fortran's order": described(npy(shape="(1, 1)", order="True", data=b"\0" * 4)),
        "a structured dtype": described(npy(np.zeros(1, [("a", "f4")]))),
        "code in a header": described(npy(header="__import__('os').abort()")),
        "brackets in a header": described(npy(header="(" * 60_000)),
        "signs in a header": described(npy(header="-" * 60_000 + "1")),
        "a header of 4 GB": described(b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(100)),
        "no header": described(b""),
        "nested brackets as meta": build(head="[" * 100_000),
        "nested objects as meta": build(head='{"a":' * 100_000),
        "400,000 lists as meta": build(head="[" + "[]," * 400_000 + "[]]"),
        "meta of 9 MB": build(head=" " * 2_300_000 + "{}"),
        "a number of a million digits": build(head='{"format":' + "1" * 1_000_000 + "}"),
        "bytes as meta": build(replace={"meta": npy(np.array(b"{}"))}),
        "no characters as meta": build(replace={"meta": npy(descr="<U2", data=b"\xff" * 8)}),
        "no meta": build(replace={"meta": None}),
        "entries that are not there": build({**head, "entries": ["a"] * 200_000}),
        "a negative variance": build(replace={variance: npy(-abs(arrays[variance]) - 1)}),
        "an infinite variance": build(replace={variance: npy(arrays[variance] + np.inf)}),
        "1e300 in float32": build(replace={first: npy(arrays[first].astype("f8") + 1e300)}),
        "NaN": build(replace={first: npy(arrays[first] + np.nan)}),
        "a complex parameter": build(replace={first: npy(arrays[first] + 1j)}),
        "a parameter of words": build(replace={first: npy(arrays[first].astype(str))}),
        "a negative square": build(
            replace={"optimizer/square": npy(-arrays["optimizer/square"] - 1)}
        ),
        "a square of another length": build(replace={square: npy(np.zeros(1, "f4"))}),
        "a negative count": build(replace={"optimizer/count": npy(np.array(-1))}),
        "half a step counted": build(replace={"optimizer/count": npy(np.array(0.5))}),
        "a list of counts": build(replace={"optimizer/count": npy(np.zeros(5, int))}),
        "an array among the streams": build(
            {**head, "entries": [*head["entries"], "generator/x"]},
            more=[Member("generator/x.npy", npy(np.zeros(100_000, "u8")))],
        ),
        "a float among the streams": build(
            {**head, "entries": [*head["entries"], "generator/x"]},
            more=[Member("generator/x.npy", npy(np.zeros(628)))],
        ),
    }
    for name in ("vocab_size", "block_size", "n_layer", "n_embd", "n_embd2", "n_head"):
        for value in (HUGE, 10**8, 10**30, 1000):
            files[f"{name} {value}"] = build({**head, "config": {**head["config"], name: value}})
    for key in [*head, "entries"]:
        for value in WRONG_VALUES:
            files[f"head {key} {str(value)[:20]!r}"] = build({**head, key: value})
    for key in [*head["config"], "other\nline"]:
        for value in WRONG_VALUES:
            config = {**head["config"], key: value}
            files[f"config {key!r} {str(value)[:20]!r}"] = build({**head, "config": config})
    files["another kind of data"] = build(
        {**head, "data": "text" if head["data"] == "words" else "words"}
    )
    for kind in ("bigram", "mlp", "wavenet", "transformer", "microgpt", "rnn"):
        if kind != head["kind"]:
            files[f"another model, {kind}"] = build({**head, "kind": kind})
    for key in nested(head["run"]):
        for wrong in WRONG_VALUES:
            run = json.loads(json.dumps(head["run"]))
            inner = run
            for step in key[:-1]:
                inner = inner[step]
            inner[key[-1]] = wrong
            files[f"run {'.'.join(key)} {str(wrong)[:20]!r}"] = build({**head, "run": run})
    return files


def nested(values, path=()):
    """The path of everything in a dict of dicts."""
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from nested(value, (*path, key))


def damaged(data, rng):
    """The bytes with a random part of them flipped, cut, repeated, exchanged or overwritten."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        place, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
        match rng.integers(6):
            case 0:
                data[place] ^= 1 << int(rng.integers(8))
            case 1:
                del data[place:]
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                data[place : place + length] = rng.bytes(length)
            case 5:
                other = int(rng.integers(len(data) or 1))
                data[place : place + length] = data[other : other + length]
        if not data:
            break
    return bytes(data)
