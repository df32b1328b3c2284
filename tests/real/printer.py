"""A printer on the network: it answers what state it is in and when all before is printed, and keeps what came. The tests of printing itself have a
fuller one, in tests/end_to_end."""

import socketserver
import threading

# Answers to DLE EOT 1 to 4.
WELL, NO_PAPER = (0x12, 0x12, 0x12, 0x12), (0x1A, 0x32, 0x12, 0x7E)


class Printer:
    def __init__(self):
        self.state = WELL
        self.printed = b""
        printer = self

        class Line(socketserver.BaseRequestHandler):
            def handle(self):
                came = b""
                while chunk := self.request.recv(512):
                    came += chunk
                    while (at := came.find(b"\x10\x04")) >= 0 and len(came) > at + 2:
                        self.request.sendall(bytes([printer.state[came[at + 2] - 1]]))
                        came = came[:at] + came[at + 3 :]
                    while (at := came.find(b"\x1dr\x01")) >= 0:
                        printer.printed += came[:at]
                        self.request.sendall(b"\0")
                        came = came[at + 3 :]

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Line)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *failure):
        self._server.shutdown()
        self._server.server_close()
