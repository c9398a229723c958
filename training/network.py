"""What learns: a decoder, and stage 5 of the encoder when it is tuned."""

from torch import Tensor, nn

from captioning.model.decoder import CaptionDecoder


class CaptioningNetwork(nn.Module):
    """Cached features to next-word scores, through stage 5 when it learns too."""

    def __init__(self, decoder: CaptionDecoder, stage5: nn.Module | None) -> None:
        super().__init__()
        self.decoder = decoder
        self.stage5 = stage5

    def grid(self, features: Tensor) -> Tensor:
        """(B, 14, 14, 1024) through stage 5, else (B, N, 2048) as they are -> (B, N, 2048)."""
        if self.stage5 is None:
            return features
        maps: Tensor = self.stage5(features.permute(0, 3, 1, 2))
        return maps.flatten(2).transpose(1, 2)

    def forward(self, features: Tensor, words: Tensor) -> Tensor:
        """Features of B pictures and (R, T) words -> logits (R, T, V)."""
        logits: Tensor = self.decoder(self.grid(features), words)
        return logits

    def train(self, mode: bool = True) -> "CaptioningNetwork":
        """Switch dropout; batch statistics stay those of ImageNet (6000 pictures are too few to move them)."""
        super().train(mode)
        if self.stage5 is not None:
            self.stage5.eval()
        return self
