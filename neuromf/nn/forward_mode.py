"""Convolution and group normalisation with an efficient forward-mode derivative.

torch computes the forward-mode derivative of a convolution as three convolutions, one of them for the weight's zero
tangent, and decomposes group normalisation into a dozen passes. Here the convolution needs one convolution of the
input's tangent, and the normalisation one formula. Values and gradients are torch's own.

Under autocast on a CPU, torch's group normalisation returns a bfloat16 value with a float32 tangent. Further casts of
the value change nothing, so the tangent stays float32, and the next convolution fails. Here both parts of a dual number
are cast: convolutions to the type of autocast, normalisations to float32 (as CUDA's autocast does).
"""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import FunctionCtx

aten = torch.ops.aten


def has_tangent(x: Tensor) -> bool:
    """Whether `x` is a dual number."""
    return forward_ad.unpack_dual(x).tangent is not None


class Context(FunctionCtx):
    """Attributes of torch's context that its class does not declare, and those that the functions below store."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    bias: torch.Size | None
    groups: int


class _Convolution(torch.autograd.Function):
    """aten.convolution, with a forward-mode derivative for its input only."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple, padding: tuple) -> Tensor:
        return aten.convolution(x, weight, bias, stride, padding, (1, 1, 1), False, (0, 0, 0), 1)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple, output: Tensor) -> None:
        x, weight, bias, ctx.stride, ctx.padding = inputs
        ctx.bias = None if bias is None else bias.shape
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(weight)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        mask = [*ctx.needs_input_grad[:2], ctx.bias is not None and ctx.needs_input_grad[2]]
        settings = (ctx.bias, ctx.stride, ctx.padding, (1, 1, 1), False, (0, 0, 0), 1)
        return *aten.convolution_backward(gradient, x, weight, *settings, mask), None, None

    @staticmethod
    def jvp(ctx: Context, x: Tensor, weight: None, bias: None, *_: None) -> Tensor:
        return aten.convolution(x, ctx.saved_tensors[0], None, ctx.stride, ctx.padding, (1, 1, 1), False, (0, 0, 0), 1)


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` with an efficient forward-mode derivative, without dilation and groups."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(device := x.device.type):
            if not has_tangent(x):
                return super().forward(x)
            dtype = torch.get_autocast_dtype(device)
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        return _Convolution.apply(x, weight, bias, self.stride, self.padding)


class _GroupNorm(torch.autograd.Function):
    r"""aten.native_group_norm. With x' = (x - mean) rstd, its derivative along dx is

    .. math:: \gamma \, \mathrm{rstd} \, (dx - \overline{dx} - x' \, \overline{x' dx})
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        n, c = x.shape[:2]
        return aten.native_group_norm(x.contiguous(), weight, bias, n, c, x[0, 0].numel(), groups, eps)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple, output: tuple) -> None:
        x, weight, _, ctx.groups, _ = inputs
        _, mean, rstd = output
        ctx.mark_non_differentiable(mean, rstd)
        ctx.save_for_backward(x, mean, rstd, weight)
        ctx.save_for_forward(x, mean, rstd, weight)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor, *_: Tensor) -> tuple:
        x, mean, rstd, weight = ctx.saved_tensors
        n, c = x.shape[:2]
        mask, sizes = list(ctx.needs_input_grad[:3]), (n, c, x[0, 0].numel(), ctx.groups)
        tensors = (gradient.contiguous(), x.contiguous(), mean, rstd, weight)
        gradients = aten.native_group_norm_backward(*tensors, *sizes, mask)
        return *gradients, None, None

    @staticmethod
    def jvp(ctx: Context, dx: Tensor, *_: None) -> tuple:
        x, mean, rstd, weight = ctx.saved_tensors
        n, c = x.shape[:2]
        x, dx = x.reshape(n, ctx.groups, -1), dx.reshape(n, ctx.groups, -1)
        x = (x - mean[..., None]) * rstd[..., None]
        out = dx - dx.mean(2, keepdim=True) - x * (x * dx).mean(2, keepdim=True)
        scale = (rstd[..., None] * weight.view(1, ctx.groups, -1)).reshape(n, c, 1)
        return (scale * out.reshape(n, c, -1)).view_as(ctx.saved_tensors[0]), None, None


class GroupNorm(nn.GroupNorm):
    """Affine `nn.GroupNorm` with an efficient forward-mode derivative."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            if not has_tangent(x):
                return super().forward(x)
            x = x.float()
        return _GroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps)[0]


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm over the last axis; with a tangent it is computed by elementary operations.

    torch decomposes its forward-mode derivative in Python, which takes most of the time of a small network.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not has_tangent(x):
            return super().forward(x)
        centred = x - x.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight + self.bias


def lean_forward_mode(net: nn.Module) -> nn.Module:
    """Replace the 3D convolutions and group normalisations of a network by those above, in place."""
    for module in net.modules():
        if type(module) is nn.Conv3d:
            if module.groups != 1 or set(module.dilation) != {1} or module.padding_mode != "zeros":
                raise ValueError(f"convolutions must have groups=1, dilation=1 and zero padding; got {module}")
            module.__class__ = Conv3d
        elif type(module) is nn.GroupNorm and module.affine:
            module.__class__ = GroupNorm
    return net
