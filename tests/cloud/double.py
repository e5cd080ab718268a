"""What the doubles of several clouds share."""

import ctypes
from http.server import ThreadingHTTPServer


def ends_with_parent():
    """For `preexec_fn`: a child is killed when its parent ends (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, 9)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # Whoever is killed in the middle of an answer is no error of ours.
        pass
