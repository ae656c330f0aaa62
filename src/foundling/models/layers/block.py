"""One residual block, with its norms where the config puts them."""

from __future__ import annotations

from torch import Tensor, nn

from foundling.models.config import BlockConfig, NormConfig
from foundling.models.context import Context
from foundling.models.layers.attention import CrossAttention
from foundling.models.layers.norm import Norm
from foundling.models.layers.parts import LayerState, make_feed_forward, make_mixer


class Block(nn.Module):
    """x + mixer(norm(x)), then x + cross(norm(x)) if there is an encoder, then x + ffn(norm(x))."""

    def __init__(self, config: BlockConfig, dim: int, norm: NormConfig) -> None:
        super().__init__()
        self.config = config
        sandwich = config.norms == "sandwich"
        self.mixer_norm = Norm(dim, norm) if config.mixer_norm else None
        self.mixer = make_mixer(config.mixer, dim)
        self.mixer_post_norm = Norm(dim, norm) if sandwich else None
        self.cross_norm = Norm(dim, norm) if config.cross else None
        self.cross = CrossAttention(config.cross, dim) if config.cross else None
        self.ffn_norm = Norm(dim, norm) if config.ffn else None
        self.ffn = make_feed_forward(config.ffn, dim) if config.ffn else None
        self.ffn_post_norm = Norm(dim, norm) if config.ffn and sandwich else None

    def forward(self, x: Tensor, ctx: Context, state: LayerState | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        if self.config.parallel:
            assert self.ffn is not None
            mixed = self.mixer(self._before(self.mixer_norm, x), ctx, state)
            return x + mixed + self.ffn(self._before(self.ffn_norm, x), ctx)
        branch = self.mixer(self._before(self.mixer_norm, x), ctx, state)
        x = self._joined(x, branch, self.mixer_norm, self.mixer_post_norm)
        if self.cross is not None:
            x = self._joined(x, self.cross(self._before(self.cross_norm, x), ctx), self.cross_norm, None)
        if self.ffn is not None:
            x = self._joined(x, self.ffn(self._before(self.ffn_norm, x), ctx), self.ffn_norm, self.ffn_post_norm)
        return x

    def _before(self, norm: nn.Module | None, x: Tensor) -> Tensor:
        if norm is None or self.config.norms in ("post", "after"):
            return x
        out: Tensor = norm(x)
        return out

    def _joined(self, x: Tensor, branch: Tensor, norm: nn.Module | None, post: nn.Module | None) -> Tensor:
        match self.config.norms:
            case "post":
                assert norm is not None
                return x + norm(branch)
            case "sandwich":
                assert post is not None
                return x + post(branch)
            case "after":
                assert norm is not None
                out: Tensor = norm(x + branch)
                return out
            case _:
                return x + branch
