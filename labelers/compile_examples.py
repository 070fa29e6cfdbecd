"""For each language of `compiles` what it must rank right: (prompt, better, worse)."""

from __future__ import annotations

_ADD = "Write a Python function that adds two numbers."

BETTER_AND_WORSE: dict[str, list[tuple[str, str, str]]] = {
    "python": [
        (_ADD, "```python\ndef add(a, b):\n    return a + b\n```", "```python\ndef add(a, b)\n    return\n```"),
        (_ADD, "def add(a, b):\n    return a + b\n", "# I would add the two numbers here."),
    ],
    "c": [("Add in C.", "int add(int a, int b) { return a + b; }", "int add(int a, int b) { return a + c; }")],
    "cpp": [("Add in C++.", "auto add(auto a, auto b) { return a + b; }", "auto add(auto a, auto b) { return a + b }")],
    "javascript": [("Add in JavaScript.", "const add = (a, b) => a + b;", "const add = (a, b) = a + b;")],
    "java": [
        ("Add in Java.", "class A { int add(int a, int b) { return a + b; } }", "class A { int add() { return x; } }")
    ],
    "go": [
        (
            "Add in Go.",
            "package add\n\nfunc Add(a, b int) int { return a + b }",
            "package add\n\nfunc Add(a, b int) int {}",
        )
    ],
    "rust": [
        ("Add in Rust.", "pub fn add(a: i32, b: i32) -> i32 { a + b }", "pub fn add(a: i32, b: i32) -> i32 { a + }")
    ],
    "bash": [("Add in Bash.", "echo $((1 + 2))", "if true; echo 1")],
    "sql": [("All users in SQL.", "SELECT * FROM users;", "SELECT * FROM users WHERE (;")],
}
