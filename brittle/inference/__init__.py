"""Ask models: prompts, loaded models, showing answers, chat, sweeps over many prompts."""
