"""The operations, each a pair of plain functions: forward above, backward below, one file a family.

    y, cache = name(inputs..., options)
    gradients = name_backward(dy, cache)

One gradient for each floating input, in argument order: an array where there is one input, else a
tuple. `d<name>` is the gradient of the loss with respect to `<name>` and has its shape. Results are
fresh arrays and nothing of the caller's is modified; `y` may be part of the cache. Where a backward
takes `out`, it says for each parameter in which array its gradient is to be placed, or None for a
fresh one; embedding has one parameter, and `out` is that array itself.

Arrays have exactly the shapes of the docstring and hold floating numbers; one that would only
broadcast is a ValueError, and so are complex numbers in a backward. The dtype of the first input is
the dtype of everything. float32 and float64 are proven; float16 is computed in float16 throughout,
with no promise about its digits.

Sizes: B batch, T time, C channels, V vocabulary, H hidden, N all leading axes together. Left out on
purpose: convolution, pooling, broadcasting of operands, and any graph that differentiates itself.
"""

from npnet.ops.activation import (
    dropout,
    dropout_backward,
    gelu,
    gelu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from npnet.ops.attention import causal_attention, causal_attention_backward
from npnet.ops.linear import (
    embedding,
    embedding_backward,
    embedding_linear,
    embedding_linear_backward,
    linear,
    linear_backward,
)
from npnet.ops.loss import cross_entropy, cross_entropy_backward
from npnet.ops.norm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    batch_norm_inference_backward,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)
from npnet.ops.recurrent import gru, gru_backward, lstm, lstm_backward, rnn, rnn_backward
from npnet.ops.sequence import (
    causal_mean,
    causal_mean_backward,
    flatten_consecutive,
    flatten_consecutive_backward,
)

__all__ = [name for name in dir() if not name.startswith("_") and callable(globals()[name])]
