;; What only hand-written text can do: every trap, and calls that go in and out of WebAssembly.
(module
  (import "host" "enter" (func $enter))
  (import "host" "leave" (func $leave))
  (memory (export "memory") 1 2)
  (table 2 funcref)
  (elem (i32.const 0) $add)
  (type $binary (func (param i32 i32) (result i32)))
  (type $unary (func (param i32) (result i32)))

  (func $add (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1)))

  (func (export "unreachable") unreachable)
  (func (export "divide_by_zero") (drop (i32.div_u (i32.const 1) (i32.const 0))))
  (func (export "divide_overflow") (drop (i32.div_s (i32.const 0x80000000) (i32.const -1))))
  (func (export "bad_conversion") (drop (i32.trunc_f32_s (f32.const nan))))
  (func (export "memory_out_of_bounds") (drop (i32.load (i32.const 0x10000))))
  (func (export "memory_far_out_of_bounds") (drop (i32.load offset=0xffffffff (i32.const -1))))
  (func (export "store_out_of_bounds") (i64.store (i32.const 0xfffc) (i64.const 1)))
  (func (export "table_out_of_bounds")
    (drop (call_indirect (type $binary) (i32.const 1) (i32.const 2) (i32.const 7))))
  (func (export "null_reference")
    (drop (call_indirect (type $binary) (i32.const 1) (i32.const 2) (i32.const 1))))
  (func (export "bad_signature")
    (drop (call_indirect (type $unary) (i32.const 1) (i32.const 0))))
  (func $forever (export "stack_overflow") call $forever)

  ;; outer ─► host enter ─► inner ─► host leave
  (func $middle (call $enter))
  (func $outer (export "outer") (call $middle))
  (func $last (call $leave))
  (func $inner (export "inner") (call $last)))
