"""The network and its trainer, readable as an essay; it knows no artifact and imports nothing else of ours.

Read in this order: `config` (every knob), `network` (the architecture), `data` (what it sees, in which order), `train` (the loop),
`checkpoint` (how it survives), `generate` and `evaluate` (what it can do).
"""
