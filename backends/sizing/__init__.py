"""How much memory a model needs: what its files say of it, and the arithmetic from that to bytes.

Nothing here starts an engine or asks one. Files are read, and only their beginnings.
"""
