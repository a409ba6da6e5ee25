"""How XLA compiles what runs once or twice: quickly. For the tests, and for what CI runs beside them."""

from importlib import metadata

# Splitting a program over LLVM's threads costs a fifth of the time. The older fusion compiles training steps twice as
# fast; a later XLA may not know it, and would refuse to start.
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1" + (
    " --xla_cpu_use_fusion_emitters=false" if metadata.version("jaxlib").startswith("0.10.") else ""
)
