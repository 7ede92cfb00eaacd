"""The network and its trainer, readable as an essay; it knows no artifact and imports nothing else of ours.

Read in this order: `architecture` and `config` (every knob), `network`, `attention` and `loss` (what is computed), `data` (what it sees, in
which order), `train` (the loop), `states` (how it survives), `parallel` (how it spreads), `formats` (how others load it), `watching` and
`flops` (what it costs), `adapting` (LoRA), `generate` and `evaluate` (what it can do).
"""
