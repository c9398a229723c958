"""The search as a captioner runs it: the same captions as `captioning.model.beam` and `constrained`, in less time.

Those two modules are the definition, and what tests compare with. This package differs in three ways. Words are chosen
from each row's own best words, so no scores of K x V words are copied and sorted. What must not come next is a list of
ids, not a mask over V. On a CPU the layers of the decoder are prepared for one word at a time, in int8 where the CPU
multiplies it, and images that have all their hypotheses leave the batch.

`rules.Rules` says which words may come, `best_words` finds them, `beam` and `constrained` choose among them,
`prepared.PreparedDecoder` scores them. `cuda_graph` replays the steps of both searches on a GPU.
"""
