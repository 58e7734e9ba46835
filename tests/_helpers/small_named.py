"""A Post-LN model of no known family, and the names of its sites."""

from torch import Tensor, nn

from admin_init.adapters.patterns import SitePattern, named_sites
from admin_init.sites import ResidualSite

D = 16


class Attention(nn.Module):
    """Returns a tuple, as attention modules often do."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(D, D)
        self.output = nn.Linear(D, D)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.mix(x).softmax(1)
        return self.output(weights * x), weights


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.attention_norm = nn.LayerNorm(D)
        self.fc1, self.fc2 = nn.Linear(D, 2 * D), nn.Linear(2 * D, D, bias=False)
        self.dropout = nn.Dropout(0.2)
        self.norm = nn.LayerNorm(D)

    def forward(self, x: Tensor) -> Tensor:
        attention, weights = self.attention(x)
        self.weights = weights.detach()
        x = self.attention_norm(x + attention)
        y: Tensor = self.norm(x + self.dropout(self.fc2(self.fc1(x).relu())))
        return y


class Model(nn.Module):
    """A Post-LN model of no known family."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([Layer() for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.encoder.layers:  # type: ignore[union-attr]
            x = layer(x)
        return x


ATTENTION = SitePattern(
    branch="encoder.layers.*.attention",
    linear="encoder.layers.*.attention.output",
    norm="encoder.layers.*.attention_norm",
)
FEED_FORWARD = SitePattern(
    branch="encoder.layers.*.dropout", linear="encoder.layers.*.fc2", norm="encoder.layers.*.norm"
)
PATTERNS = [ATTENTION, FEED_FORWARD]


def sites_of(model: nn.Module) -> list[ResidualSite]:
    return named_sites(model, PATTERNS)
