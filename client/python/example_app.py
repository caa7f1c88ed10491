"""An example of a desktop app that is licensed with Keyledger: one window, by Tkinter, without any package.

    python3 example_app.py --server https://licenses.example.com --product my-product --public-key <base64>

What you would copy is `App` down to `_hear`: which verb of the client is called when, and what is shown for which
answer. A verb may wait for the network, so each runs in a thread of its own, and the window stays alive.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import queue
import sys
import threading
import tkinter as tk
import webbrowser
from collections.abc import Callable
from pathlib import Path
from tkinter import filedialog, ttk
from typing import Any

from keyledger_client import LicenseClient, Result

NAME = "Wave"
ASKING = "Asking the license server…"
BACKGROUND, CARD, TEXT, QUIET, LINE = "#f3f4f6", "#ffffff", "#1c2430", "#5b6675", "#d5dae1"
ACCENT, ACCENT_DARK = "#1d5fbf", "#164a96"
TONES = {"good": ("#16794a", "✓"), "warn": ("#a05a00", "!"), "bad": ("#b3261e", "!"), "calm": (ACCENT, "?")}


class App(tk.Tk):
    def __init__(self, client: LicenseClient, open_page: Callable[[str], object] = webbrowser.open) -> None:
        super().__init__()
        self.licenses, self.open_page = client, open_page
        self.answers: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.result = client.status()
        self.is_busy = False
        self._dress()
        self._show(self.result)
        if self.result.state != "unlicensed":
            self._ask(self.licenses.validate)  # at each start; what is kept is on the screen meanwhile

    # -------------------------------------------------------------------------------------------- the verbs
    def _activate(self) -> None:
        key = self.key.get()
        self._ask(lambda: self.licenses.activate(key))

    def _validate(self) -> None:
        self._ask(self.licenses.validate)

    def _release(self) -> None:
        self._ask(self.licenses.deactivate)

    def _load_file(self) -> None:
        name = filedialog.askopenfilename(
            parent=self, title="Load license file", filetypes=[("License file", "*.lic *.txt")]
        )
        if name:
            self.load(Path(name))

    def load(self, path: Path) -> None:
        try:
            text = path.read_bytes()[:65536].decode("utf-8", "replace")
        except OSError as problem:
            self.note.set(f"The file cannot be read: {problem.strerror}.")
            return
        self._ask(lambda: self.licenses.install_file(text))

    def _ask(self, verb: Callable[[], Result]) -> None:
        if self.is_busy:
            return
        self.is_busy = True
        self.note.set(ASKING)
        self.wait.grid()
        self.wait.start(15)
        for button in self.buttons:
            button.state(["disabled"])

        def work() -> None:
            result = verb()
            self.answers.put(lambda: self._hear(result))

        threading.Thread(target=work, daemon=True).start()
        self.after(30, self._listen)

    def _listen(self) -> None:
        """Tk is touched by its own thread alone."""
        try:
            self.answers.get_nowait()()
        except queue.Empty:
            self.after(30, self._listen)

    def _hear(self, result: Result) -> None:
        self.is_busy = False
        was_expired = self.result.code == "EXPIRED"
        is_failed_file = self.page == "offline" and not result.valid and result.code != "UNLICENSED"
        if is_failed_file:
            self._show_offline(result.message)
            return
        self.result = result
        self._show(result, was_renewed=was_expired and result.valid)

    # -------------------------------------------------------------------------------------------- what is shown
    def _show(self, result: Result, *, was_renewed: bool = False) -> None:
        if result.valid:
            self._show_valid(result, was_renewed)
        elif result.code == "TOO_MANY_MACHINES":
            self._show_seats(result)
        elif result.code == "EXPIRED" and result.state == "denied":
            self._show_expired(result)
        else:
            self._show_key(result)

    def _show_key(self, result: Result | None = None) -> None:
        asked = result is None or result.code in ("UNLICENSED", "DEACTIVATED")
        if asked:
            message = "Enter the license key from your e-mail. Capitals, spaces and hyphens do not matter."
            self._page("key", "calm", f"Welcome to {NAME}", message)
        else:
            assert result is not None
            is_denied = result.state == "denied"
            title = "Your license cannot be used" if self._has_key() else "This did not work"
            self._page("key", "bad" if is_denied else "warn", title if is_denied else "No answer yet", result.message)
        ttk.Label(self.body, text="License key").grid(columnspan=2, sticky="w", pady=(0, 4))
        self.key = ttk.Entry(self.body, font=("TkFixedFont", 12), width=38)
        self.key.grid(columnspan=2, sticky="ew", ipady=6)
        if not asked:
            self.key.insert(0, self.typed)
            self.key.selection_range(0, "end")
        self._button("Activate", self._activate, main=True)
        if (
            result is not None
            and result.state in ("unreachable", "denied")
            and self.licenses.status().code != "UNLICENSED"
        ):
            self._button("Check again", self._validate)
        self._button("This computer is offline", self._show_offline)
        self.key.focus_set()
        self.bind("<Return>", lambda event: self._activate() if event.widget is self.key else None)

    def _show_offline(self, problem: str = "") -> None:
        code = self.licenses.device_code()
        if not code:
            self.note.set("There is no device code: this computer could not be read, or nothing be kept on it.")
            return
        steps = (
            f"1. On a computer with a network open {self.licenses.portal_url} and sign in.\n"
            "2. Choose your license and paste this device code. You get a license file.\n"
            "3. Bring the file here and load it."
        )
        if problem:
            self._page("offline", "bad", "This file cannot be used", problem)
        else:
            self._page("offline", "calm", "Activate without a network", steps)
        ttk.Label(self.body, text="Device code of this computer").grid(columnspan=2, sticky="w", pady=(0, 4))
        self.code = tk.Text(
            self.body, height=8, width=66, font="TkFixedFont", relief="flat", wrap="char", padx=8, pady=6
        )
        self.code.configure(background=BACKGROUND, foreground=TEXT, takefocus=True, highlightthickness=2)
        self.code.configure(highlightcolor=ACCENT, highlightbackground=LINE)
        self.code.insert("1.0", code)
        self.code.configure(state="disabled")
        for key in ("<Tab>", "<Shift-Tab>"):
            self.code.bind(key, self._leave_text)
        self.code.grid(columnspan=2, sticky="ew")
        load = self._button("Load license file…", self._load_file, main=True)
        self._button("Copy code", self._copy_code)
        self._button("Save code…", self._save_code)
        self._button("Back", lambda: self._show(self.result))
        load.focus_set()

    def _show_seats(self, result: Result) -> None:
        self._page("seats", "warn", "All seats are taken", result.message)
        page = result.help_url or self.licenses.portal_url
        self._link("Release a computer on your license's page", page).focus_set()
        self._button("Try again", self._validate if self._has_key() else self._activate_again, main=True)
        self._button("Another key", self._show_key)

    def _show_expired(self, result: Result) -> None:
        message = result.message
        if result.expiry:
            message = f"It ended on {result.expiry:%Y-%m-%d}, and works again as soon as it is renewed."
        self._page("expired", "bad", "Your license has ended", message)
        self._link("Renew it on your license's page", result.help_url or self.licenses.portal_url).focus_set()
        self._button("Check again", self._validate if self._has_key() else self._activate_again, main=True)
        self._button("Another key", self._show_key)

    def _show_valid(self, result: Result, was_renewed: bool) -> None:
        is_alone = result.state == "grace"
        title = "The license server was not reached" if is_alone else "Your license is valid"
        title = "Thank you: your license is renewed" if was_renewed else title
        message = result.message if is_alone else f"{NAME} runs on this computer."
        self._page("renewed" if was_renewed else "valid", "warn" if is_alone else "good", title, message)
        seats = f"{result.seats_used} of {result.max_seats}" if result.seats_used is not None else None
        rows = {
            "Product": result.product_name,
            "Edition": (result.tier or "").capitalize(),
            "Features": ", ".join(result.features),
            "Valid until": f"{result.expiry:%Y-%m-%d}" if result.expiry else "for ever",
            "Computers": seats,
            "Works offline until": f"{result.grace_end:%Y-%m-%d}" if result.grace_end else None,
        }
        for place, (name, value) in enumerate((name, value) for name, value in rows.items() if value):
            ttk.Label(self.body, text=name, style="Quiet.TLabel").grid(
                row=place, column=0, sticky="w", padx=(0, 24), pady=3
            )
            ttk.Label(self.body, text=value).grid(row=place, column=1, sticky="w", pady=3)
        self._button("Continue", self.destroy, main=True).focus_set()
        self._button("Release this computer", self._release)
        if result.clock_off:
            self.note.set("This computer's clock seems to be wrong.")

    # -------------------------------------------------------------------------------------------- parts of the window
    def _page(self, page: str, tone: str, title: str, message: str) -> None:
        self.page = page
        self.buttons: list[ttk.Button] = []
        kept = self.key.get() if hasattr(self, "key") and self.key.winfo_exists() else ""
        self.typed = kept or getattr(self, "typed", "")
        for place in (self.body, self.row):
            for widget in place.winfo_children():
                widget.destroy()
        self.unbind("<Return>")
        colour, sign = TONES[tone]
        self.badge.delete("all")
        self.badge.create_oval(2, 2, 42, 42, fill=colour, outline=colour)
        self.badge.create_text(22, 22, text=sign, fill="white", font=("TkDefaultFont", 18, "bold"))
        self.heading.set(title)
        self.message.set(message)
        self.note.set("")
        self.wait.stop()
        self.wait.grid_remove()

    def _button(self, text: str, command: Callable[[], object], *, main: bool = False) -> ttk.Button:
        button = ttk.Button(self.row, text=text, command=command, style="Main.TButton" if main else "TButton")
        button.pack(side="right" if main else "left", padx=(0, 8) if not main else (8, 0))
        self.buttons.append(button)
        return button

    def _link(self, text: str, page: str) -> ttk.Button:
        link = ttk.Button(self.body, text=text, style="Link.TButton", command=lambda: self.open_page(page))
        link.grid(columnspan=2, sticky="w")
        ttk.Label(self.body, text=page, style="Quiet.TLabel", wraplength=500).grid(columnspan=2, sticky="w", padx=6)
        return link

    def _has_key(self) -> bool:
        return bool(self.licenses.status().code != "UNLICENSED")

    def _activate_again(self) -> None:
        key = self.typed
        self._ask(lambda: self.licenses.activate(key))

    def _copy_code(self) -> None:
        self.clipboard_clear()
        self.clipboard_append(self.licenses.device_code())
        self.note.set("The device code is in the clipboard.")

    def _save_code(self) -> None:
        name = filedialog.asksaveasfilename(parent=self, title="Save device code", initialfile="device-code.txt")
        if name:
            try:
                Path(name).write_text(self.licenses.device_code(), encoding="utf-8")
                self.note.set(f"Saved as {name}.")
            except OSError as problem:
                self.note.set(f"It cannot be saved: {problem.strerror}.")

    def _leave_text(self, event: tk.Event[tk.Text]) -> str:
        following = event.widget.tk_focusPrev() if event.state and int(event.state) & 1 else event.widget.tk_focusNext()
        if following:
            following.focus_set()
        return "break"

    def _dress(self) -> None:
        """Colours and the frame that all pages share."""
        self.title(f"{NAME}: license")
        self.configure(background=BACKGROUND)
        self.minsize(600, 420)
        style = ttk.Style(self)
        style.theme_use("clam")
        style.configure(".", background=CARD, foreground=TEXT, font="TkDefaultFont")
        style.configure("Quiet.TLabel", foreground=QUIET)
        style.configure("Title.TLabel", font=("TkDefaultFont", 16, "bold"))
        style.configure("Back.TFrame", background=BACKGROUND)
        style.configure("Note.TLabel", background=BACKGROUND, foreground=QUIET)
        plain: dict[str, Any] = {"padding": (14, 8), "background": CARD, "bordercolor": LINE}
        plain |= {"lightcolor": CARD, "darkcolor": CARD}
        style.configure("TButton", focuscolor=ACCENT, **plain)
        style.map("TButton", background=[("active", BACKGROUND)], foreground=[("disabled", QUIET)])
        main = {
            "background": ACCENT,
            "foreground": "white",
            "bordercolor": ACCENT,
            "lightcolor": ACCENT,
            "darkcolor": ACCENT,
        }
        style.configure("Main.TButton", focuscolor="white", **main)
        style.map(
            "Main.TButton",
            background=[("disabled", QUIET), ("active", ACCENT_DARK)],
            foreground=[("disabled", "white")],
        )
        style.configure("Link.TButton", foreground=ACCENT, padding=(6, 6), bordercolor=CARD, relief="flat")
        style.configure("TEntry", fieldbackground=CARD, bordercolor=QUIET, lightcolor=CARD)
        style.map("TEntry", bordercolor=[("focus", ACCENT)], lightcolor=[("focus", ACCENT)])
        style.configure("Horizontal.TProgressbar", background=ACCENT, troughcolor=LINE, bordercolor=LINE)
        self.bind_class("TButton", "<Return>", "%W invoke")
        self.bind("<Escape>", lambda event: self.destroy())
        self.heading, self.message, self.note = tk.StringVar(), tk.StringVar(), tk.StringVar()
        self.columnconfigure(0, weight=1)
        self.rowconfigure(0, weight=1)
        card = ttk.Frame(self, padding=24)
        card.grid(sticky="nsew", padx=16, pady=(16, 4))
        card.columnconfigure(1, weight=1)
        card.rowconfigure(2, weight=1)
        self.badge = tk.Canvas(card, width=44, height=44, background=CARD, highlightthickness=0)
        self.badge.grid(row=0, column=0, rowspan=2, sticky="n", padx=(0, 16))
        ttk.Label(card, textvariable=self.heading, style="Title.TLabel").grid(row=0, column=1, sticky="w")
        message = ttk.Label(card, textvariable=self.message, wraplength=490, justify="left")
        message.grid(row=1, column=1, sticky="w", pady=(4, 0))
        self.body = ttk.Frame(card, padding=(0, 20, 0, 16))
        self.body.grid(row=2, column=0, columnspan=2, sticky="nsew")
        self.body.columnconfigure(1, weight=1)
        self.row = ttk.Frame(card)
        self.row.grid(row=3, column=0, columnspan=2, sticky="ew")
        foot = ttk.Frame(self, style="Back.TFrame", padding=(18, 2, 18, 8))
        foot.grid(row=1, sticky="ew")
        foot.columnconfigure(0, weight=1)
        ttk.Label(foot, textvariable=self.note, style="Note.TLabel", wraplength=420).grid(row=0, column=0, sticky="w")
        self.wait = ttk.Progressbar(foot, mode="indeterminate", length=120)
        self.wait.grid(row=0, column=1, sticky="e")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", required=True)
    parser.add_argument("--product", required=True)
    parser.add_argument("--public-key", required=True, action="append", help="may be given more than once")
    parser.add_argument("--state-dir", type=Path, default=Path.home() / f".{NAME.lower()}")
    given = parser.parse_args()
    if sys.platform == "win32":
        with contextlib.suppress(AttributeError, OSError):
            ctypes.windll.shcore.SetProcessDpiAwareness(1)
    App(LicenseClient(given.server, given.product, given.public_key, given.state_dir)).mainloop()


if __name__ == "__main__":
    main()
