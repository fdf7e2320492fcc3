"""LawShift: legal judgment by rejection sampling, 1/n-weighted SFT and evaluation under changed law."""
