"""Drives the example app from inside its own loop, by the keyboard; run by any Python that has Tkinter.

    drive_example.py SERVER PRODUCT PUBLIC_KEY STATE_DIR SCREEN

Reads a command a line on stdin and answers each on stdout, both in JSON. SCREEN is the file in which Xvfb keeps its
screen.
"""

from __future__ import annotations

import json
import struct
import sys
import time
import tkinter as tk
import zlib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "client" / "python"))
import example_app
from keyledger_client import LicenseClient

PATIENCE = 60.0
ENOUGH = 20  # colours
KEYSYMS = {"-": "minus", " ": "space"}


class Driver:
    def __init__(self, app: example_app.App, screen: Path) -> None:
        self.app, self.screen, self.opened, self.buffer = app, screen, [], b""
        app.open_page = self.opened.append
        app.report_callback_exception = self.fail
        app.createfilehandler(sys.stdin, tk.READABLE, self.hear)

    def fail(self, *problem: Any) -> None:
        """What goes wrong in the app shall not pass by as a line on stderr."""
        sys.excepthook(*problem)
        print(json.dumps({"failed": str(problem[1])}), flush=True)

    def hear(self, *_: Any) -> None:
        line = sys.stdin.readline()
        if not line:
            self.app.destroy()
            return
        command = json.loads(line)
        getattr(self, command.pop("do"))(**command)

    def focus(self) -> Any:
        """X tells that a window has the focus in its own time."""
        end = time.monotonic() + PATIENCE
        self.app.update()
        while (focus := self.app.focus_get()) is None and time.monotonic() < end:
            time.sleep(0.01)
            self.app.update()
        return focus

    def tell(self, **more: Any) -> None:
        print(json.dumps(more), flush=True)

    # -------------------------------------------------------------------------------------------- commands
    def look(self) -> None:
        app, focus = self.app, self.focus()
        buttons = [button for button in widgets(app, "TButton") if button.winfo_ismapped()]
        self.tell(
            page=app.page,
            heading=app.heading.get(),
            message=app.message.get(),
            note=app.note.get(),
            buttons=[str(button.cget("text")) for button in buttons],
            focus=str(focus.cget("text")) if focus in buttons else focus.winfo_class(),
            texts=[str(label.cget("text")) for label in widgets(app.body, "TLabel")],
            code=app.code.get("1.0", "end").strip() if app.page == "offline" else None,
            typed=app.key.get() if app.page == "key" else None,
            opened=self.opened,
            fits=self.fits(),
        )

    def fits(self) -> bool:
        app = self.app
        return app.winfo_reqwidth() <= app.winfo_width() and app.winfo_reqheight() <= app.winfo_height()

    def wait(self, page: str, heading: str, end: float | None = None) -> None:
        """Until that page is there, and nothing is going on."""
        end = end or time.monotonic() + PATIENCE
        is_there = self.app.page == page and heading in self.app.heading.get() and self.fits()
        if (is_there and not self.app.is_busy) or time.monotonic() > end:
            self.look()
        else:
            self.app.after(20, self.wait, page, heading, end)

    def press(self, key: str) -> None:
        self.focus().event_generate(f"<{key}>")
        self.tell(done=key)

    def type(self, text: str) -> None:
        for symbol in text:
            self.focus().event_generate("<Key>", keysym=KEYSYMS.get(symbol, symbol))
        self.app.update_idletasks()
        self.tell(done=text)

    def choose(self, path: str) -> None:
        """What the customer will choose in the system's dialog for files."""
        example_app.filedialog.askopenfilename = lambda **_: path
        self.tell(done=path)

    def clipboard(self) -> None:
        self.tell(text=self.app.clipboard_get())

    def shot(self, path: str) -> None:
        """X draws in its own time: letters with soft edges have many colours, an empty window has few."""
        colours, end = 0, time.monotonic() + PATIENCE
        while colours <= ENOUGH and time.monotonic() < end:
            self.app.update()
            time.sleep(0.1)
            colours = write_png(Path(path), self.screen.read_bytes(), self.app.winfo_width(), self.app.winfo_height())
        self.tell(is_drawn=colours > ENOUGH)


def widgets(place: tk.Misc, kind: str) -> list[Any]:
    found = [place] if place.winfo_class() == kind else []
    return found + [one for child in place.winfo_children() for one in widgets(child, kind)]


def write_png(path: Path, screen: bytes, width: int, height: int) -> int:
    """The upper left corner of an XWD file as a PNG, and how many colours are in it."""
    head = struct.unpack(">25I", screen[:100])
    size, line, colours = head[0], head[12], head[19]
    start = size + 12 * colours
    rows, seen = [], set()
    for y in range(height):
        row = screen[start + y * line : start + y * line + 4 * width]
        pixels = bytearray(3 * width)
        pixels[0::3], pixels[1::3], pixels[2::3] = row[2::4], row[1::4], row[0::4]
        rows.append(b"\0" + bytes(pixels))
        seen.update(row[at : at + 4] for at in range(0, len(row), 4))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return len(seen)


def main() -> None:
    server, product, public_key, state_dir, screen = sys.argv[1:]
    app = example_app.App(
        LicenseClient(server, product, public_key, state_dir, device_name="Ann's desk", timeout=PATIENCE)
    )
    app.geometry("+0+0")
    app.update()
    (app.focus_lastfor() or app).focus_force()  # there is no window manager that would do it
    Driver(app, Path(screen))
    app.mainloop()


if __name__ == "__main__":
    main()
