;; What is measured: the ways in and out of WebAssembly, without anything in between.
(module
  (import "host" "nothing" (func $nothing))
  (func (export "nothing"))
  (func (export "through") (call $nothing))
  (func (export "trap") unreachable))
