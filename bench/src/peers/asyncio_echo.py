"""Python's asyncio: its streams, as in its documentation. TCP_NODELAY is on by default. It cannot be stopped."""

import asyncio
import os
import sys
import threading

SIZE = int(sys.argv[1])


async def echo(reader, writer):
    try:
        while data := await reader.read(SIZE):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def end_with_the_pipe():
    while os.read(0, 1024):
        pass
    os._exit(0)


async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=4096)
    if len(sys.argv) > 2:
        threading.Thread(target=end_with_the_pipe, daemon=True).start()
    host, port = server.sockets[0].getsockname()
    print(f"listening {host}:{port}", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
