"""Names and things that fill the places of generated questions.

Word lists and one function to draw from them; no grammar and no numbers. Called by ``arithmetic``
and ``finance``.
"""

from __future__ import annotations

import random

NAMES_EN = ["Ada", "Adam", "Alice", "Amir", "Anna", "Ben", "Bella", "Carl", "Carla", "Chen", "Clara", "Dan", "Diego", "Dora", "Ella", "Emil", "Emma", "Eva", "Felix", "Fiona", "Frank", "Gina", "Grace", "Hana", "Hugo", "Ian", "Ines", "Iris", "Ivan", "Jack", "Jane", "Joe", "Jon", "Julia", "Kai", "Karen", "Ken", "Lara", "Leo", "Lily", "Lina", "Liam", "Lucy", "Luis", "Maria", "Mark", "Max", "Maya", "Mei", "Mia", "Mike", "Mina", "Nick", "Nina", "Noah", "Nora", "Oscar", "Omar", "Paul", "Pia", "Priya", "Ravi", "Rosa", "Ruth", "Sam", "Sara", "Sofia", "Tara", "Theo", "Tim", "Tom", "Vera", "Wei", "Will", "Yuki", "Zoe"]
OBJECTS_EN = ["apples", "balls", "beads", "books", "bottles", "buttons", "candles", "cards", "carrots", "coins", "cookies", "crayons", "cups", "eggs", "flowers", "hats", "keys", "lemons", "letters", "marbles", "muffins", "mugs", "nuts", "oranges", "peaches", "pears", "pencils", "pens", "photos", "plants", "plates", "plums", "ribbons", "rings", "rocks", "roses", "shells", "shirts", "socks", "spoons", "stamps", "stars", "stickers", "stones", "tickets", "tomatoes", "toys"]
BOXES_EN = ["bags", "baskets", "boxes", "crates", "jars", "packs", "trays", "tins"]
NAMES_ZH = ["小明", "小红", "小华", "小丽", "小刚", "小芳", "小强", "小军", "小燕", "小林", "小雨", "小杰", "李雷", "韩梅", "王伟", "张敏", "刘洋", "陈静", "杨帆", "赵磊", "周婷", "吴昊", "孙悦", "朱琳", "胡军", "郭亮", "何欣", "高远", "林涛", "罗兰"]
OBJECTS_ZH = ["个苹果", "个梨", "个橘子", "个球", "本书", "支铅笔", "张邮票", "张卡片", "颗糖", "块饼干", "朵花", "个杯子", "个鸡蛋", "枚硬币", "个贝壳", "颗珠子", "个气球", "张贴纸", "块石头", "个玩具"]


def draw_words(rng: random.Random, language: str) -> dict[str, str]:
    """Two different names ``n`` and ``m``, a thing ``o``, another thing ``p``, a container ``c``."""
    names, objects = (NAMES_ZH, OBJECTS_ZH) if language == "zh" else (NAMES_EN, OBJECTS_EN)
    name, other_name = rng.sample(names, 2)
    thing, other_thing = rng.sample(objects, 2)
    return {
        "n": name,
        "m": other_name,
        "o": thing,
        "p": other_thing,
        "c": "盒" if language == "zh" else rng.choice(BOXES_EN),
    }
