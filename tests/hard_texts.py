"""Texts that tell tokenizers apart: scripts, digits, white space, joined emoji, names of special tokens."""

import hashlib

HARD_TEXTS = (
    "",
    " ",
    "Hello",
    " Hello world",
    "Hello, world! It's 'quoted' -- isn't it? They'LL say WE'VE won, I'm sure; she'd've gone.",
    "DON'T we'Re he'S I'\u017f can’t rock‘n’roll 'tis 's 't 'x ''s '' '",
    "camelCase HTTPServer XMLHttpRequest2 snake_case kebab-case SCREAMING_CASE iPhone McDonald",
    "def f(x):\n    return [i**2 for i in range(x) if i % 2 == 0]  # squares\n\n\nprint(f(10))\n",
    ('int main(void) {\r\n\tfor (int i = 0; i < 10; ++i)\r\n\t\tprintf("%d\\n", i);\r\n\treturn 0;\r\n}\r\n'),
    '<html><body class="a b">\n  <p>&amp; &lt;b&gt;</p>\n</body></html>',
    "SELECT * FROM t WHERE a<>b AND c>=1 OR d!='x'; -- ok",
    "x=y+z*(a/b)-c^2%d&e|f~g`h`@i#j$k\\l",
    "https://example.com/a/b.html?q=1&r=%20#top me@example.org C:\\Temp\\x.txt ../../etc",
    "3 33 333 3333 33333 333333 3333333 33333333 3.14 1,000,000.50 1e-10 0xFF 007",
    "v1.2.3 2026-12-01T03:04:05Z +49 30 123456 50% $9.99 1st 2nd A4 B2B H2O",
    "١٢٣٤ १२३ ²³¹ x² ½¼¾ Ⅻ ①② 一二三 １２３",
    "a  b   c    d     e      f       g        h",
    "  two\n   three\n    four\n\tone tab\n\t\ttwo tabs\n \t mixed \t \n",
    "trailing   ",
    "   leading",
    "\n",
    "\n\n",
    "\n\n\n\nfour lines\n\n",
    "a\rb\r\rc\r\n\r\nd\n\re",
    " \n \n  \n",
    "a \n b  \n  c",
    "nbsp\xa0here\xa0\xa0two em\u2003space thin\u2009space wide\u3000space",
    "next\x85line sep\u2028line para\u2029graph \u2029 ꏤ zero\u200bwidth soft\xadhyphen bom\ufefftext",
    "bell\x07 null\x00 esc\x1b[31mred\x1b[0m del\x7f unit\x1f sep\x1c\x1d\x1e vt\x0b ff\x0c",
    "你好，世界！今天天气很好。《红楼梦》是曹雪芹写的。",
    "東京に行きます。カタカナとひらがな、そして漢字。ｶﾀｶﾅ ・・・",
    "안녕하세요. 한국어 문장입니다! \u1112\u1161\u11ab\u1100\u1173\u11af",
    "مرحبا بالعالم، كيف حالك؟ ب\u0650س\u0652م\u0650 ٱلل\u0651\u064e\u0670ه\u0650",
    "ש\u05c1\u05b8לו\u05b9ם עולם",
    "สว\u0e31สด\u0e35ชาวโลก ภาษาไทยไม\u0e48ม\u0e35ช\u0e48องว\u0e48าง",
    "नमस\u094dत\u0947 द\u0941न\u093fय\u093e ক\u09be\u0982ল\u09be தம\u0bbfழ\u0bcd ក\u17d2ន\u17bbង",
    "Привет, мир! Ёлка и мышь в доме №5",
    "Καλημέρα κόσμε ἀνάβασις ΑΘΗΝΑ",
    "Über straße naïve café Ångström Łódź İstanbul ı ǅ Ĳ ẞ",
    (
        "decomposed: cafe\u0301 A\u030angstro\u0308m e\u0301\u0301 \u212b \u2126 \u212a \u1100\u1161 क\u093c "
        "α\u0301"
    ),
    "😀🚀 👨\u200d👩\u200d👧\u200d👦 🇩🇪🇯🇵 👍🏽 ❤\ufe0f 🧑🏿\u200d💻 ☺ 1\ufe0f\u20e3",
    "𝐀𝔞 𐐀𐐨 𞤀 𠀀 \ue000 � ☃ ♫ → ∑ ∞ ≈",
    "!!! ??? ... ,,, ;;; ::: --- ___ === +++ *** /// \\\\\\ ||| &&& ### $$$ %%% ^^^ ~~~ ``` ((([[[{{{",
    "¡Hola! ¿Qué? «guillemets» “quotes” —dash— … • § ¶ † © ® ™ € £ ¥ °",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ababababab abcabcabcabc ===================================== ................................",
    " unreachable unreachable",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|endoftext|> x <|im_end|>y <|im_sta rt|> <|im_end| > <|im_end|",
    "<s>[INST] hi [/INST] </s> <bos><start_of_turn>user\nhi<end_of_turn>\n<eos> <unk> <pad>",
    "< <| <|> |> <||> <|im_end|>|> <<|im_end|>> <\u200b|im_end|>",
    '<tool_call>\n{"name": "f", "arguments": {"a": [1, 2.5, null, true]}}\n</tool_call>',
    "<think>\nhm\n</think>\n\nyes <|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
    (
        "# Title\n\n* item one\n* item **two**\n\n```python\nprint('hi')\n```\n\n| a | b |\n|---|---|\n| 1 | "
        "2 |\n"
    ),
    "The quick brown fox jumps over the lazy dog. THE QUICK BROWN FOX. The Quick Brown Fox.",
)

# Names the texts to which ids in golden files belong.
DIGEST = hashlib.sha256("\0".join(HARD_TEXTS).encode()).hexdigest()[:16]
