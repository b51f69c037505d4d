"""alpaca_eval on the common task, judging alone: URL COUNT PLACES. Writes into the current folder."""

import os
import sys
from pathlib import Path

import yaml


def main() -> None:
    url, count, places = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    Path("clients.yaml").write_text(yaml.safe_dump({"default": [{"api_key": "none", "base_url": f"{url}/v1"}]}))
    os.environ["OPENAI_CLIENT_CONFIG_PATH"] = str(Path("clients.yaml").resolve())
    from alpaca_eval import constants
    from alpaca_eval.annotators import PairwiseAnnotator

    name = "weighted_alpaca_eval_gpt4_turbo"
    configs = yaml.safe_load((Path(constants.EVALUATORS_CONFIG_DIR) / name / "configs.yaml").read_text())
    annotator = configs[name]
    annotator["prompt_template"] = str(Path(constants.EVALUATORS_CONFIG_DIR) / annotator["prompt_template"])
    annotator["completions_kwargs"] |= {"model_name": "judge", "num_procs": places}
    folder = Path("bench")
    folder.mkdir()
    (folder / "configs.yaml").write_text(yaml.safe_dump({"bench": annotator}))
    questions = [f"Question {number}: " + "what is to be said of this? " * 6 for number in range(count)]
    sides = [
        [
            {"instruction": text, "output": f"{words} {number}", "generator": words}
            for number, text in enumerate(questions)
        ]
        for words in ("A baseline's answer. " * 90, "An answer. " * 90)
    ]
    judge = PairwiseAnnotator(annotators_config=folder.resolve(), caching_path=Path("cache.json").resolve())
    rows = judge.annotate_head2head(*sides)
    if sum(row["preference"] is not None for row in rows) != count:
        raise SystemExit("alpaca_eval did not judge all")


if __name__ == "__main__":
    main()
