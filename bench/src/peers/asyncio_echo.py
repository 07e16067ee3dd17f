"""Python's asyncio: a buffered protocol, as its documentation recommends for speed. TCP_NODELAY is on by default. It
cannot be stopped."""

import asyncio
import os
import sys
import threading

SIZE = int(sys.argv[1])


class Echo(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(SIZE)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        # A copy: the transport keeps what the socket does not take.
        self.transport.write(self.buffer[:nbytes])

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


def end_with_the_pipe():
    while os.read(0, 1024):
        pass
    os._exit(0)


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=4096)
    if len(sys.argv) > 2:
        threading.Thread(target=end_with_the_pipe, daemon=True).start()
    host, port = server.sockets[0].getsockname()
    print(f"listening {host}:{port}", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
