"""
Succeeds if the process of this container is up, neither starting nor stopping.

    python healthcheck.py [PORT]

PORT is that of the admin listener; by default the first of the roles' ports that is open.  A
dependency that fails does not count: to start the container again would not help.
"""

import http.client
import sys

#: The defaults of admin.listen: web or combined, worker, images.
PORTS = (1114, 1113, 1115)


def main(ports: tuple[int, ...]) -> None:
    """Exit with status 0 or 1."""
    for port in ports:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
        try:
            connection.request("GET", "/__lbheartbeat__")
            status = connection.getresponse().status
        except ConnectionRefusedError:
            continue
        except OSError as error:
            raise SystemExit(f"port {port}: {error}") from None
        raise SystemExit(None if status == 200 else f"port {port} responds {status}")
    raise SystemExit(f"no admin listener at {', '.join(map(str, ports))}")


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or PORTS)
