"""Records functions as CUDA graphs are recorded, on any device: a replay runs the function again."""

from collections.abc import Callable
from dataclasses import dataclass

from captioning.model.search.beam import Open
from captioning.model.search.cuda_graph import Replay


@dataclass
class EagerRecorder:
    """A `Recorder` that writes the results of a replay where those of the recording are. It counts recordings."""

    recorded: int = 0

    def record(self, run: Callable[[], Open]) -> tuple[Replay, Open]:
        result = run()
        self.recorded += 1

        def replay() -> None:
            again = run()
            result.images.copy_(again.images)
            for kept, new in zip((*result.hypotheses, *result.state), (*again.hypotheses, *again.state), strict=True):
                kept.copy_(new)

        return replay, result
