"""The compared decoders, each in a child process. Only `prelim` and `generate` run in this environment.

The others run under the Python of build/bench, so each module imports only the standard library and its own peer.
"""
