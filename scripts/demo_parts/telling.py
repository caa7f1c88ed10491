"""How the story is told: a line for what happens, and what came of it below."""

from __future__ import annotations

from email.message import EmailMessage
from typing import Any


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def show(text: str) -> None:
    print("\n".join(f"   {line}".rstrip() for line in text.splitlines()), flush=True)


def show_letter(letter: EmailMessage) -> None:
    show(f"To: {letter['To']}\nSubject: {letter['Subject']}\n\n{text_of(letter)}")


def text_of(letter: EmailMessage) -> str:
    body = letter.get_body(("plain",))
    return str(body.get_content()) if body else ""


def verdict(who: str, answer: dict[str, Any]) -> str:
    found, how = answer["license"] or {}, "takes the seat" if answer.get("activated") else ""
    used = f"{found.get('devices_used')} of {found.get('max_devices')} seats"
    return f"{who:18}  {answer['code']:18} the license {answer['detail']}; {used} {how}".rstrip()
