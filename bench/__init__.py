"""Side-by-side benchmarks against peers, `python -m bench NAME`; the program never imports them."""
