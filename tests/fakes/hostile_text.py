"""Two hundred texts that try to steer a terminal, a picture or markup; each names what it tries by its first word."""

from __future__ import annotations

from typing import Final

_SEQUENCES: Final = {
    "title": "]0;owned\x07", "title-st": "]2;owned\x1b\\", "clear": "[2J", "home": "[H", "erase-line": "[2K",
    "alternate-screen": "[?1049h", "leave-screen": "[?1049l", "hide-cursor": "[?25l", "mouse": "[?1003h",
    "paste-mode": "[?2004h", "colours": "[31;1;5m", "hidden": "[8m", "scroll-region": "[1;3r", "move": "[99;99H",
    "report": "[6n", "device": "[c", "keyboard": "[>1u", "link": "]8;;http://example.org/\x1b\\text\x1b]8;;\x1b\\",
    "clipboard": "]52;c;b3duZWQ=\x07", "palette": "]4;1;#ff0000\x07", "notify": "]9;owned\x07",
    "directory": "]7;file:///etc\x07", "image": "_Gf=24,s=1,v=1;AAAA\x1b\\", "sixel": "Pq#0;2;0;0;0~-\x1b\\",
    "setting": "P+q544e\x1b\\", "privacy": "^owned\x1b\\", "start": "Xowned\x1b\\", "reset": "c", "index": "D",
    "reverse-index": "M", "save": "7", "restore": "8", "charset": "(0", "keypad": "=", "tab-stop": "H",
    "insert": "[4h", "window": "[8;1;1t", "repeat": "[1000b", "print": "[5i", "locking-shift": "n",
}  # fmt: skip
_MARKUP: Final = (
    "[bold]", "[/]", "[/bold]", "\\\\", "\\\\\\", "\\\\[/]",
    "[red on white]x[/]", "[@click=app.quit]quit[/]", "[link=file:///etc/passwd]x[/link]",
    "[$error]x[/]", "\\[bold]", "\\", "[", "]", "[[", "[]]", "[/nothing]", "[not a style]x", ":skull:", "%(x)s {0} {}",
    "<script>alert(1)</script>", "&amp; & <", "]]>", "<![CDATA[", "<!--", "'\"`", "[#fff]x", "[B]x", "[ bold]x",
    "[@click=app.switch_mode('log')]", "[bold", "bold]", "[/@click]", "[auto]x", "[1]", "[a=b]", "[on", "[link=\x1b]x",
)  # fmt: skip
_FORMATS: Final = (
    0x61C, 0x200E, 0x200F, 0x2028, 0x2029, 0x202A, 0x202B, 0x202C, 0x202D, 0x202E, 0x2066, 0x2067, 0x2068, 0x2069,
    0x206A, 0x206F, 0xFDD0, 0xFEFF, 0xFFF9, 0xFFFB, 0xFFFE, 0xFFFF, 0x1FFFE, 0x10FFFF, 0xE0001, 0xE0041, 0xE007F,
)  # fmt: skip
SURROGATES: Final = ("lone \ud800", "low \udc9b", "reversed \udc00\ud800", "pair-in-two \ud83d\ude00")
"""No wire carries these; a file name or a tolerant decoder makes them."""

ENCODABLE: Final = (
    *(f"{name} \x1b{sequence} end" for name, sequence in _SEQUENCES.items()),
    *(f"c0-{code:02x} a{chr(code)}b" for code in (*range(0x20), 0x7F)),
    *(f"c1-{code:02x} a{chr(code)}b" for code in range(0x80, 0xA0)),
    *(f"c1-{name} \x9b{sequence[1:]} \x9d0;x\x9c end" for name, sequence in list(_SEQUENCES.items())[2:18]),
    *(f"format-{code:04x} abc{chr(code)}def" for code in _FORMATS),
    *(f"markup {text}" for text in _MARKUP),
    "crlf one\r\ntwo\r\nthree", "overwrite harmless\rrm -rf ~", "backspace abc\x08\x08\x08xyz",
    "many \x1b\x1b\x1b[[[2J\x9b2J", "split \x1b", "long " + "\x1b[31m" * 2000, "wide 日本語\x1b[2J日本語",
    "scripts שלום \u202eabc\u202c عربي", "emoji 👩‍👩‍👧\x1b]0;x\x07", "combining e\u0301\u0301\x1bc",
    "nul \x00\x00\x00", "tabs a\tb\tc", "lines a\nb\nc",
)  # fmt: skip
HOSTILE: Final = (*ENCODABLE, *SURROGATES)
