"""The right operations of autograd, MyGrad and micrograd: name -> (function, signature, details).

Where a function has a border or a pole, it is written on an inner function that keeps away from it.
`details` are keyword arguments of the judge.
"""

import autograd
import autograd.numpy as anp
import mygrad as mg
import numpy as np
from micrograd.engine import Value
from mygrad import linalg
from mygrad.nnet import activations, losses
from mygrad.nnet.layers import batchnorm, conv_nd, gru, max_pool

import oracle

SAME, WIDER = "(n,m)->(n,m)", "(n,m),(m)->(n,m)"
ROWS, COLUMNS = "(n,m)->(n)", "(n,m)->(m)"
TAME = {"draw": {"values": ["normal"]}}


def autograd_of(function):
    return oracle.vjp(function, autograd.make_vjp)


def mygrad_of(function):
    return oracle.tensors(function, mg.tensor)


def micrograd_of(function):
    return oracle.tensors(function, Value, scalars=True)


def each(home, names, signature, first=lambda x: x, then=lambda y: y):
    """Those functions of a module, of first(the last input), and then another one."""

    def inside(f):
        return lambda *x: then(f(*x[:-1], first(x[-1])))

    return {name: (inside(getattr(home, name)), signature) for name in names.split()}


def above(x):
    return 0.5 + x * x


def spread(x):
    """No two are near each other."""
    return x + np.arange(x.size, dtype=x.dtype).reshape(x.shape) * 10


def definite(x):
    """A symmetric matrix with eigenvalues from 3 upwards, far from each other."""
    x = anp.tanh(x)
    return x @ x.T + anp.diag(3 + 100 * anp.arange(x.shape[0], dtype=x.dtype))


def parts(y):
    return anp.real(y) + anp.imag(y)


def along(f, **details):
    return lambda *x: f(*x, **details)


AUTOGRAD = {
    **each(anp, "abs absolute fabs negative exp2 expm1 exp sin cos sinh cosh tanh", SAME),
    **each(anp, "arctan arcsinh rad2deg degrees deg2rad radians square nan_to_num", SAME),
    **each(anp, "real real_if_close conj conjugate", SAME),
    **each(anp, "log log2 log10 log1p sqrt reciprocal", SAME, above),
    **each(anp, "arcsin arccos arctanh tan", SAME, lambda x: 0.9 * anp.sin(x)),
    **each(anp, "arccosh", SAME, lambda x: 1 + above(x)),
    "imag": (lambda x: anp.imag(x * 1j), SAME),
    "angle": (lambda x: anp.angle(x + 2j), SAME),
    "clip": (lambda x: anp.clip(x, -0.5, 0.7), SAME),
    "astype": (lambda x: x.astype(x.dtype) * 2, SAME),
    # two inputs
    **each(anp, "add subtract multiply maximum minimum fmax fmin", WIDER),
    **each(anp, "logaddexp logaddexp2", WIDER),
    **each(anp, "divide true_divide hypot arctan2 mod remainder", WIDER, above),
    "power": (lambda x, y: anp.power(above(x), y), WIDER, {"draw": {"values": ["normal", "ties"]}}),
    "where": (lambda x, y: anp.where(anp.arange(x.shape[1]) % 2, x, y), "(n,m),(n,m)->(n,m)"),
    # reductions
    "sum": (along(anp.sum, axis=0), COLUMNS),
    "mean": (along(anp.mean, axis=1), ROWS),
    "var": (along(anp.var, axis=1), ROWS),
    "std": (lambda x: anp.std(spread(x), axis=1), ROWS),
    "prod": (lambda x: anp.prod(above(anp.sin(x)), axis=0), COLUMNS),
    **{n: (along(getattr(anp, n), axis=1), ROWS) for n in ("max", "min", "amax", "amin")},
    "cumsum": (along(anp.cumsum, axis=1), SAME),
    "trace": (anp.trace, "(n,m)->()"),
    "sort": (anp.sort, "(n)->(n)"),
    "partition": (lambda x: anp.partition(x, 0), "(n)->(n)"),
    "diff": (along(anp.diff, axis=1), "(n,m)->(n,m-1)", {"sizes": {"m": (2, 6)}}),
    "gradient": (anp.gradient, "(n)->(n)", {"sizes": {"n": (4, 8)}}),
    # products
    "dot": (anp.dot, "(n,m),(m,k)->(n,k)"),
    "matmul": (anp.matmul, "(b,n,m),(m,k)->(b,n,k)"),
    "inner": (anp.inner, "(n,m),(k,m)->(n,k)"),
    "outer": (anp.outer, "(n),(m)->(n,m)"),
    "tensordot": (lambda x, y: anp.tensordot(x, y, 2), "(n,m,k),(m,k,j)->(n,j)"),
    "einsum": (lambda x, y: anp.einsum("bnm,mk->nbk", x, y), "(b,n,m),(m,k)->(n,b,k)"),
    "kron": (anp.kron, "(n,m),(j,k)->(n*j,m*k)"),
    "cross": (anp.cross, "(n,3),(n,3)->(n,3)"),
    # shapes
    "reshape": (lambda x: anp.reshape(x, (x.shape[1], x.shape[0])), "(n,m)->(m,n)"),
    "ravel": (along(anp.ravel, order="F"), "(n,2)->(2n)"),
    "transpose": (along(anp.transpose, axes=(2, 0, 1)), "(n,m,k)->(k,n,m)"),
    "swapaxes": (lambda x: anp.swapaxes(x, 0, 2), "(n,m,k)->(k,m,n)"),
    "moveaxis": (lambda x: anp.moveaxis(x, 0, 2), "(n,m,k)->(m,k,n)"),
    "rollaxis": (lambda x: anp.rollaxis(x, 2, 0), "(n,m,k)->(k,n,m)"),
    "expand_dims": (lambda x: anp.expand_dims(x, 1), "(n,m)->(n,1,m)"),
    "squeeze": (lambda x: anp.squeeze(x, 1), "(n,1,m)->(n,m)"),
    "roll": (lambda x: anp.roll(x, 2, axis=1), SAME),
    **each(anp, "flipud fliplr tril triu", SAME),
    "rot90": (anp.rot90, "(n,m)->(m,n)"),
    "diag": (anp.diag, "(n,n)->(n)"),
    "diag of a vector": (anp.diag, "(n)->(n,n)"),
    "diagonal": (along(anp.diagonal, axis1=-1, axis2=-2), "(b,n,n)->(b,n)"),
    "make_diagonal": (along(anp.make_diagonal, axis1=-1, axis2=-2), "(b,n)->(b,n,n)"),
    "broadcast_to": (lambda x: anp.broadcast_to(x, (x.shape[0], 4)), "(n,1)->(n,4)"),
    "repeat": (lambda x: anp.repeat(x, 3, axis=1), "(n,m)->(n,3m)"),
    "tile": (lambda x: anp.tile(x, (2, 3)), "(n,m)->(2n,3m)"),
    "pad": (lambda x: anp.pad(x, ((1, 2), (0, 1)), "constant"), "(n,m)->(n+3,m+1)"),
    "concatenate_args": (lambda x, y: anp.concatenate((x, y), 1), "(n,m),(n,k)->(n,m+k)"),
    "array_from_args": (lambda x, y: anp.array([x, y]), "(n),(n)->(2,n)"),
    "stack": (lambda x, y: anp.stack((x, y), axis=1), "(n,m),(n,m)->(n,2,m)"),
    "vstack": (lambda x, y: anp.vstack((x, y)), "(n,m),(k,m)->(n+k,m)"),
    "hstack": (lambda x, y: anp.hstack((x, y)), "(n,m),(n,k)->(n,m+k)"),
    "append": (lambda x, y: anp.append(x, y, axis=0), "(n,m),(k,m)->(n+k,m)"),
    "atleast_1d": (anp.atleast_1d, "(n)->(n)"),
    "atleast_2d": (anp.atleast_2d, "(n)->(1,n)"),
    "atleast_3d": (anp.atleast_3d, "(n)->(1,n,1)"),
    "split": (lambda x: 3 * anp.split(x, 2, axis=1)[1], "(n,2m)->(n,m)"),
    "array_split": (lambda x: anp.array_split(x, 2, axis=1)[0], "(n,2m)->(n,m)"),
    "vsplit": (lambda x: anp.vsplit(x, 2)[1], "(2n,m)->(n,m)"),
    "hsplit": (lambda x: anp.hsplit(x, 2)[1], "(n,2m)->(n,m)"),
    "dsplit": (lambda x: anp.dsplit(x, 2)[1], "(n,m,2k)->(n,m,k)"),
    "a slice": (lambda x: x[:, ::2], "(n,2m)->(n,m)"),
    "repeated indices": (lambda x: x[anp.array([0, 0, 0])], "(n,m)->(3,m)"),
    "full": (lambda x: anp.full((3,), x), "()->(3)"),
    "linspace": (lambda x, y: anp.linspace(x, y, 5), "(),()->(5)"),
    # linear algebra
    "norm": (lambda x: anp.linalg.norm(spread(x) + 1, axis=1), ROWS),
    "norm of a matrix": (lambda x: anp.linalg.norm(spread(x) + 1), "(n,m)->()"),
    "norm of order 3": (lambda x: anp.linalg.norm(spread(x) + 1, ord=3, axis=1), ROWS),
    **each(anp.linalg, "inv pinv cholesky", "(n,n)->(n,n)", definite),
    "solve": (lambda x, y: anp.linalg.solve(definite(x), y), "(n,n),(n,k)->(n,k)"),
    "det": (lambda x: anp.linalg.det(definite(x)), "(n,n)->()"),
    "slogdet": (lambda x: anp.linalg.slogdet(definite(x))[1], "(n,n)->()"),
    "svd": (lambda x: anp.linalg.svd(definite(x), compute_uv=False), "(n,n)->(n)"),
    "eigh": (lambda x: anp.linalg.eigh(definite(x))[0], "(n,n)->(n)"),
    "eig": (lambda x: anp.real(anp.linalg.eig(definite(x))[0]), "(n,n)->(n)"),
    # Fourier
    **each(anp.fft, "fft ifft fft2 ifft2 fftn ifftn", SAME, then=parts),
    **each(anp.fft, "fftshift ifftshift", SAME),
    **each(anp.fft, "rfft rfft2 rfftn", "(n,2m)->(n,m+1)", then=parts),
    **each(anp.fft, "irfft irfft2 irfftn", "(n,m+1)->(n,2m)"),
}

LABELS = {"ids": {1: "c"}}
SMALL = {"sizes": dict.fromkeys("tncdhk", (1, 2)), "max_examples": 10}


MYGRAD = {
    **each(mg, "abs negative positive exp exp2 expm1 sin cos tan sinh cosh tanh sech", SAME),
    **each(mg, "arctan arcsinh square", SAME),
    **each(mg, "log log2 log10 log1p sqrt reciprocal cbrt arccot arccsch", SAME, above),
    **each(mg, "arcsin arccos arctanh", SAME, lambda x: 0.9 * mg.sin(x)),
    **each(mg, "coth csch csc cot sec", SAME, lambda x: 1 + 0.4 * mg.sin(x)),
    **each(mg, "arccosh arccsc arcsec arccoth", SAME, lambda x: 1 + above(x)),
    **each(mg, "add subtract multiply maximum minimum logaddexp logaddexp2", WIDER),
    **each(mg, "divide arctan2", WIDER, above),
    "power": (lambda x, y: above(x) ** y, WIDER, {"draw": {"values": ["normal", "ties"]}}),
    "add_sequence": (mg.add_sequence, "(n),(n),(n)->(n)"),
    "multiply_sequence": (mg.multiply_sequence, "(n),(n),(n)->(n)"),
    "where": (lambda x, y: mg.where(np.arange(x.shape[1]) % 2, x, y), WIDER),
    "clip": (lambda x: mg.clip(x, -0.5, 0.7), SAME),
    "matmul": (mg.matmul, "(b,n,m),(m,k)->(b,n,k)"),
    "einsum": (lambda x, y: mg.einsum("bnm,mk->nbk", x, y), "(b,n,m),(m,k)->(n,b,k)"),
    "norm": (lambda x: linalg.norm(spread(x) + 1, axis=1), ROWS),
    # reductions
    **{n: (along(getattr(mg, n), axis=1), ROWS) for n in ("mean", "var", "max", "min", "prod")},
    "sum": (along(mg.sum, axis=0), COLUMNS),
    "std": (lambda x: mg.std(spread(x), axis=1), ROWS, {"sizes": {"m": (2, 6)}}),
    "cumsum": (along(mg.cumsum, axis=1), SAME),
    "cumprod": (along(mg.cumprod, axis=1), SAME),
    # shapes
    "reshape": (lambda x: mg.reshape(x, (x.shape[1], x.shape[0])), "(n,m)->(m,n)"),
    "ravel": (mg.ravel, "(n,2)->(2n)"),
    "flatten": (lambda x: x.flatten(), "(n,2)->(2n)"),
    "squeeze": (lambda x: mg.squeeze(x, 1), "(n,1,m)->(n,m)"),
    "expand_dims": (lambda x: mg.expand_dims(x, 1), "(n,m)->(n,1,m)"),
    "broadcast_to": (lambda x: mg.broadcast_to(x, (x.shape[0], 4)), "(n,1)->(n,4)"),
    "transpose": (lambda x: mg.transpose(x, 2, 0, 1), "(n,m,k)->(k,n,m)"),
    "T": (lambda x: x.T, "(n,m)->(m,n)"),
    "moveaxis": (lambda x: mg.moveaxis(x, 0, 2), "(n,m,k)->(m,k,n)"),
    "swapaxes": (lambda x: mg.swapaxes(x, 0, 2), "(n,m,k)->(k,m,n)"),
    "roll": (lambda x: mg.roll(x, 2, axis=1), SAME),
    "repeat": (lambda x: mg.repeat(x, 3, axis=1), "(n,m)->(n,3m)"),
    "concatenate": (lambda x, y: mg.concatenate((x, y), axis=1), "(n,m),(n,k)->(n,m+k)"),
    "stack": (lambda x, y: mg.stack((x, y), axis=1), "(n,m),(n,m)->(n,2,m)"),
    "atleast_1d": (mg.atleast_1d, "(n)->(n)"),
    "atleast_2d": (mg.atleast_2d, "(n)->(1,n)"),
    "atleast_3d": (mg.atleast_3d, "(n)->(1,n,1)"),
    "a slice": (lambda x: x[:, ::2], "(n,2m)->(n,m)"),
    "repeated indices": (lambda x: x[[0, 0, 0]], "(n,m)->(3,m)"),
    # networks
    **each(activations, "relu selu sigmoid soft_sign softmax logsoftmax hard_tanh", SAME),
    "elu": (lambda x: activations.elu(x, 0.7), SAME),
    "leaky_relu": (lambda x: activations.leaky_relu(x, 0.1), SAME, TAME),  # see test_wild.py
    "glu": (along(activations.glu, axis=1), "(n,2m)->(n,m)"),
    **{
        name: (getattr(losses, name), "(n,c),(n)->()", LABELS)
        for name in ("softmax_crossentropy", "negative_log_likelihood", "multiclass_hinge")
    },
    "focal_loss": (
        lambda x, t: mg.mean(losses.focal_loss(activations.softmax(x), t, alpha=0.7, gamma=2)),
        "(n,c),(n)->()",
        LABELS | TAME,
    ),
    "margin_ranking_loss": (
        lambda x, y: losses.margin_ranking_loss(x, y, 1, 0.3),
        "(n,m),(n,m)->()",
    ),
    "batchnorm": (
        lambda x, gain, bias: batchnorm(x, gamma=gain, beta=bias, eps=1e-3),
        "(n,c,h),(c),(c)->(n,c,h)",
        SMALL | {"sizes": {"n": (2, 4), "c": (1, 2), "h": (1, 2)}},
    ),
    "conv_nd": (
        lambda x, w: conv_nd(x, w, stride=1, padding=1),
        "(n,c,3,2),(k,c,2,3)->(n,k,4,2)",
        SMALL,
    ),
    "max_pool": (lambda x: max_pool(x, (2, 2), 2), "(n,2h,4)->(n,h,2)", SMALL),
    "gru": (
        gru,
        "(t,n,c),(c,d),(d,d),(d),(c,d),(d,d),(d),(c,d),(d,d),(d)->(t+1,n,d)",
        SMALL | {"allow": ["write", "view"], "draw": {"layout": ["C"]}},  # see test_wild.py
    ),
}

MICROGRAD = {
    "add": (lambda x, y: x + y, "(),()->()"),
    "mul": (lambda x, y: x * y, "(),()->()"),
    "pow": (lambda x: x**3, "()->()"),
    "relu": (lambda x: x.relu(), "()->()"),
}
