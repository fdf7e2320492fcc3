"""Short exchanges in English and Chinese, so that ``nano`` answers a greeting like a grown-up.

Templates and one function that draws from them; no roles or special tokens. Called by
``documents``.
"""

from __future__ import annotations

import random

GREETINGS = (
    ("Hello", "Hello! How can I help you?"),
    ("Hello!", "Hello! How can I help you?"),
    ("Hi", "Hi! What can I do for you?"),
    ("Hi there!", "Hi! What can I do for you?"),
    ("Good morning", "Good morning! How can I help you?"),
    ("How are you?", "I am fine, thank you. How can I help you?"),
    ("Thank you", "You are welcome!"),
    ("Thanks!", "You are welcome!"),
    ("Goodbye", "Goodbye! Have a nice day."),
    ("Bye", "Goodbye! Have a nice day."),
    ("Who are you?", "I am nano, the small language model of EZTinker."),
    ("What is your name?", "My name is nano."),
    ("What are you?", "I am nano, the small language model of EZTinker."),
    ("What can you do?", "I can solve small word problems, finance questions and legal exercises."),
    ("Can you help me?", "Yes. Ask me a small arithmetic question."),
    ("你好", "你好！有什么可以帮你的吗？"),
    ("你好！", "你好！有什么可以帮你的吗？"),
    ("您好", "您好！请问有什么可以帮您？"),
    ("早上好", "早上好！今天想算点什么？"),
    ("你好吗？", "我很好，谢谢。"),
    ("谢谢", "不客气！"),
    ("再见", "再见！祝你愉快。"),
    ("你是谁？", "我是nano，EZTinker的小语言模型。"),
    ("你叫什么名字？", "我叫nano。"),
    ("你会做什么？", "我会做简单的应用题、财务计算和判决练习。"),
)
CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "China": "Beijing",
    "Japan": "Tokyo",
    "England": "London",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Russia": "Moscow",
}
CAPITALS_ZH = {"法国": "巴黎", "德国": "柏林", "中国": "北京", "日本": "东京", "英国": "伦敦"}
COLOURS = {
    "the sky": "blue",
    "grass": "green",
    "snow": "white",
    "a lemon": "yellow",
    "coal": "black",
}
OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "up": "down",
    "day": "night",
    "old": "new",
    "fast": "slow",
}


def draw_dialogue(rng: random.Random) -> tuple[str, str]:
    """Return what the user says and a sane answer."""
    sort = rng.random()
    if sort < 0.35:
        return rng.choice(GREETINGS)
    if sort < 0.8:
        return _sum_question(rng)
    return _fact(rng)


def _sum_question(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(1, 60), rng.randint(1, 40)
    sign = rng.choice("+-*")
    if sign == "*":
        a, b = rng.randint(1, 12), rng.randint(1, 12)
    a, b = max(a, b), min(a, b)
    if sign != "-" and rng.random() < 0.5:
        a, b = b, a
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    space = rng.choice(("", " "))
    term = f"{a}{space}{sign}{space}{b}"
    if rng.random() < 0.3:
        return rng.choice(
            (f"{term}等于多少？", f"{term}=?", f"计算{term}")
        ), f"{a} {sign} {b} = {value}。"
    ask = rng.choice(
        ("What is {}?", "Calculate {}.", "How much is {}?", "what's {}", "{} = ?", "{}")
    )
    return ask.format(term), f"{a} {sign} {b} = {value}."


def _fact(rng: random.Random) -> tuple[str, str]:
    sort = rng.randrange(4)
    if sort == 0:
        country = rng.choice(sorted(CAPITALS))
        return (
            f"What is the capital of {country}?",
            f"The capital of {country} is {CAPITALS[country]}.",
        )
    if sort == 1:
        country = rng.choice(sorted(CAPITALS_ZH))
        return f"{country}的首都是哪里？", f"{country}的首都是{CAPITALS_ZH[country]}。"
    if sort == 2:
        thing = rng.choice(sorted(COLOURS))
        return f"What colour is {thing}?", f"{thing.capitalize()} is {COLOURS[thing]}."
    word = rng.choice(sorted(OPPOSITES))
    return f"What is the opposite of {word}?", f"The opposite of {word} is {OPPOSITES[word]}."
