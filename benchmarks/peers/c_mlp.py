"""mlp.c compiled on the spot and given the matrix product of the OpenBLAS that NumPy brings."""

import ctypes
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import Peer

SOURCE = Path(__file__).with_name("mlp.c")
PRODUCTS = {  # symbol -> its integer
    "scipy_cblas_sgemm64_": "int64_t",
    "cblas_sgemm64_": "int64_t",
    "scipy_cblas_sgemm": "int32_t",
    "cblas_sgemm": "int32_t",
}
PARAMETERS = ("embedding.weight", "hidden.weight", "norm.weight", "norm.bias", "head.weight")
FLOATS = (
    "table w1 gain bias w2 b2 dtable dw1 dgain dbias dw2 db2 flat raw h logits dh dflat inv mean"
)


class Net(ctypes.Structure):
    _fields_ = [
        ("multiply", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in "BTEHVN"),
        *((name, ctypes.c_void_p) for name in ("x", "y", *FLOATS.split())),
        ("random", ctypes.c_uint64),
    ]


def peer(task):
    """The Peer; an OSError where there is no compiler or no such BLAS."""
    multiply, integer = product()
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(str(compiled(Path(folder), integer)))
    library.mlp_train.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_float]
    library.mlp_step.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float]
    library.mlp_train.restype = library.mlp_step.restype = ctypes.c_float

    c, lr, B = task.config, task.rule.lr, task.batch_size
    parameters = [task.parameters[name].copy() for name in (*PARAMETERS, "head.bias")]
    K, H, V = c.block_size * c.n_embd, c.n_embd2, c.vocab_size
    shapes = [(B, K), (B, H), (B, H), (B, V), (B, H), (B, K), (H,), (H,)]
    arrays = [
        *parameters,
        *(np.zeros_like(p) for p in parameters),
        *(np.zeros(shape, np.float32) for shape in shapes),
    ]

    def net(x, y):
        x, y = (np.ascontiguousarray(a, np.int64) for a in (x, y))
        sizes = (B, c.block_size, c.n_embd, H, V, len(x))
        made = Net(multiply, *sizes, *(a.ctypes.data for a in (x, y, *arrays)), 88172645463325252)
        made.keep = x, y, arrays
        return made

    examples = net(task.x, task.y)

    def train(n):
        library.mlp_train(ctypes.byref(examples), n, lr)

    def check(x, y):
        batch, ix = net(x, y), np.arange(B)
        return [library.mlp_step(ctypes.byref(batch), ix.ctypes.data, lr) for _ in range(2)]

    return Peer(train, check)


def compiled(folder, integer):
    """-ffast-math lets the loops and tanhf run in vectors; linking without it leaves the process's
    treatment of tiny numbers alone."""
    made, library = folder / "mlp.o", folder / "mlp.so"
    flags = ["-O3", "-march=native", "-ffast-math", "-fPIC", f"-DBLAS_INT={integer}"]
    for command in (
        ["cc", *flags, "-c", str(SOURCE), "-o", str(made)],
        ["cc", "-shared", str(made), "-o", str(library), "-lm"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return library


def product():
    """The address of sgemm in NumPy's own OpenBLAS, and the C type of its sizes."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for file in folder.glob("*openblas*"):
            library = ctypes.CDLL(str(file))
            for symbol, integer in PRODUCTS.items():
                if hasattr(library, symbol):
                    return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value, integer
    raise OSError("this NumPy brings no OpenBLAS of its own")
