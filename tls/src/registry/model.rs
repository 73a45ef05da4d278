//! The registry against a naive model: areas as maps of byte vectors.
//!
//! ```text
//!  steps: create · end · trim · reserve · publish · add · withdraw · prepare · write
//!  after each: every block of every area has the model's bytes, aligned, and numbers agree
//! ```

use std::collections::BTreeMap;
use std::vec;

use proptest::prelude::*;

use super::*;
use crate::error::{AccessError, ReserveError};
use crate::handles::{Dynamic, Published, Reserved};
use crate::layout::Template;
use crate::modules::ModuleId;

const SURPLUS: usize = 600;
const KERNEL: [u8; 5] = [10, 20, 30, 40, 50];

#[derive(Clone, Debug)]
enum Step {
    Create,
    End { area: usize },
    Trim,
    Reserve { size: usize, log: u32 },
    Publish { reserved: usize, image: u8, share: usize },
    Add { size: usize, log: u32, image: u8, share: usize },
    Withdraw { module: usize },
    Prepare { area: usize, module: usize },
    PrepareAll { area: usize },
    PrepareLive { module: usize },
    Write { area: usize, module: usize, byte: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let any = || any::<usize>();
    let byte = || 1u8..=255;
    prop_oneof![
        4 => Just(Step::Create),
        2 => any().prop_map(|area| Step::End { area }),
        1 => Just(Step::Trim),
        4 => (0usize..150, 0u32..=8).prop_map(|(size, log)| Step::Reserve { size, log }),
        4 => (any(), byte(), 0usize..=100)
            .prop_map(|(reserved, image, share)| Step::Publish { reserved, image, share }),
        4 => (0usize..150, 0u32..=13, byte(), 0usize..=100)
            .prop_map(|(size, log, image, share)| Step::Add { size, log, image, share }),
        4 => any().prop_map(|module| Step::Withdraw { module }),
        4 => (any(), any()).prop_map(|(area, module)| Step::Prepare { area, module }),
        1 => any().prop_map(|area| Step::PrepareAll { area }),
        1 => any().prop_map(|module| Step::PrepareLive { module }),
        4 => (any(), any(), byte())
            .prop_map(|(area, module, byte)| Step::Write { area, module, byte }),
    ]
}

#[derive(Debug)]
enum Handle<'r> {
    Static(Published<'r>),
    Dynamic(Dynamic<'r>),
}

/// A published module, and what its blocks start with.
#[derive(Debug)]
struct Known<'r> {
    handle: Handle<'r>,
    initial: Vec<u8>,
    align: usize,
}

impl Known<'_> {
    fn id(&self) -> ModuleId {
        match &self.handle {
            Handle::Static(module) => module.module(),
            Handle::Dynamic(module) => module.module(),
        }
    }

    fn is_static(&self) -> bool {
        matches!(self.handle, Handle::Static(_))
    }
}

/// An area, and the blocks it has by the numbers of their modules.
#[derive(Debug)]
struct Task<'r> {
    area: Area<'r>,
    blocks: BTreeMap<ModuleId, Vec<u8>>,
}

struct World<'r> {
    registry: &'r Registry,
    tasks: Vec<Task<'r>>,
    reserved: Vec<(Reserved<'r>, usize, usize)>,
    modules: Vec<Known<'r>>,
}

fn pick<T>(of: &[T], index: usize) -> Option<usize> {
    index.checked_rem(of.len())
}

fn image(size: usize, image: u8, share: usize) -> Vec<u8> {
    vec![image; size * share / 100]
}

fn initial(tdata: &[u8], size: usize) -> Vec<u8> {
    let mut block = tdata.to_vec();
    block.resize(size, 0);
    block
}

/// A block as bytes.
fn block<'a>(start: *mut u8, size: usize) -> &'a mut [u8] {
    // SAFETY: The test asks for blocks of live areas, one at a time, and no task runs.
    unsafe { core::slice::from_raw_parts_mut(start, size) }
}

impl<'r> World<'r> {
    fn act(&mut self, step: &Step) {
        let registry = self.registry;
        match *step {
            Step::Create => {
                let initial = self.modules.iter().filter(|module| module.is_static());
                let blocks = initial.map(|module| (module.id(), module.initial.clone())).collect();
                self.tasks.push(Task { area: registry.new_area(7).unwrap(), blocks });
            }
            Step::End { area } => {
                pick(&self.tasks, area).map(|area| self.tasks.swap_remove(area));
            }
            Step::Trim => assert!(registry.trim() <= SLOTS),
            Step::Reserve { size, log } => match registry.reserve(size, 1 << log) {
                Ok(reserved) => self.reserved.push((reserved, size, 1 << log)),
                Err(error) => assert!(matches!(error, ReserveError::SurplusExhausted { .. })),
            },
            Step::Publish { reserved, image: with, share } => {
                let Some(index) = pick(&self.reserved, reserved) else { return };
                let (reserved, size, align) = self.reserved.swap_remove(index);
                let tdata = image(size, with, share);
                let handle = Handle::Static(reserved.publish(&tdata).unwrap());
                self.know(Known { handle, initial: initial(&tdata, size), align });
            }
            Step::Add { size, log, image: with, share } => {
                let tdata = image(size, with, share);
                let module = registry.add_dynamic(&tdata, size, 1 << log).unwrap();
                let handle = Handle::Dynamic(module);
                self.know(Known { handle, initial: initial(&tdata, size), align: 1 << log });
            }
            Step::Withdraw { module } => {
                let Some(module) = pick(&self.modules, module) else { return };
                let Known { handle, .. } = self.modules.swap_remove(module);
                let id = match &handle {
                    Handle::Static(module) => module.module(),
                    Handle::Dynamic(module) => module.module(),
                };
                drop(handle);
                for task in &mut self.tasks {
                    task.blocks.remove(&id);
                    let missing = Err(AccessError::NoSuchModule { module: id.get() });
                    assert_eq!(task.area.prepare(id), missing);
                }
            }
            Step::Prepare { area, module } => {
                self.start_of(area, module);
            }
            Step::PrepareAll { area } => {
                let Some(area) = pick(&self.tasks, area) else { return };
                self.tasks[area].area.prepare_all().unwrap();
                for module in &self.modules {
                    let blocks = &mut self.tasks[area].blocks;
                    blocks.entry(module.id()).or_insert_with(|| module.initial.clone());
                }
            }
            Step::PrepareLive { module } => {
                let Some(module) = pick(&self.modules, module) else { return };
                let module = &self.modules[module];
                let Handle::Dynamic(handle) = &module.handle else { return };
                handle.prepare_live().unwrap();
                for task in &mut self.tasks {
                    task.blocks.entry(module.id()).or_insert_with(|| module.initial.clone());
                }
            }
            Step::Write { area, module, byte } => {
                let Some((start, task, id)) = self.start_of(area, module) else { return };
                let expected = self.tasks[task].blocks.get_mut(&id).unwrap();
                block(start, expected.len()).fill(byte);
                expected.fill(byte);
            }
        }
    }

    fn know(&mut self, module: Known<'r>) {
        if module.is_static() {
            for task in &mut self.tasks {
                task.blocks.insert(module.id(), module.initial.clone());
            }
        }
        self.modules.push(module);
    }

    /// Has a task's block made.
    fn start_of(&mut self, area: usize, module: usize) -> Option<(*mut u8, usize, ModuleId)> {
        let (task, module) = (pick(&self.tasks, area)?, pick(&self.modules, module)?);
        let (id, initial) = (self.modules[module].id(), &self.modules[module].initial);
        let start = self.tasks[task].area.prepare(id).unwrap();
        self.tasks[task].blocks.entry(id).or_insert_with(|| initial.clone());
        Some((start, task, id))
    }

    fn check(&self) {
        let registry = self.registry;
        assert_eq!(registry.live_areas(), self.tasks.len());
        assert_eq!(registry.modules(), self.reserved.len() + self.modules.len());
        for Task { area, blocks } in &self.tasks {
            let kernel = area.thread_pointer().block(registry.kernel_offset());
            assert_eq!(block(kernel, KERNEL.len()), KERNEL);
            for module in &self.modules {
                let Some(expected) = blocks.get(&module.id()) else { continue };
                let start = match &module.handle {
                    Handle::Static(module) => area.thread_pointer().block(module.offset()),
                    Handle::Dynamic(_) => area.prepare(module.id()).unwrap(),
                };
                assert_eq!(block(start, expected.len()), expected);
                if !expected.is_empty() {
                    assert_eq!(start.addr() % module.align, 0);
                    assert_eq!(area.prepare(module.id()).unwrap(), start);
                }
            }
        }
    }
}

/// Acts step by step, and ends in any order.
fn play(steps: &[Step], padding: usize) {
    let kernel = Template::new(&KERNEL, 5, 1).unwrap();
    let registry = Registry::new(kernel, SURPLUS).unwrap();
    // Numbers beyond the first vector's are taken early.
    let taken: Vec<_> = (0..padding).map(|_| registry.reserve(0, 1).unwrap()).collect();
    let (tasks, modules) = (vec![], vec![]);
    let reserved = taken.into_iter().map(|reserved| (reserved, 0, 1)).collect();
    let mut world = World { registry: &registry, tasks, reserved, modules };
    for step in steps {
        world.act(step);
        world.check();
    }
    let World { tasks, modules, reserved, .. } = world;
    drop((modules, tasks, reserved));
    assert_eq!((registry.live_areas(), registry.modules()), (0, 0));
    assert_eq!(registry.surplus_free(), SURPLUS);
}

proptest! {
    #[test]
    fn the_registry_agrees_with_a_naive_model(steps in prop::collection::vec(step(), 0..120)) {
        play(&steps, 0);
    }

    #[test]
    fn the_registry_agrees_with_the_model_when_vectors_grow(
        steps in prop::collection::vec(step(), 0..60),
        padding in 25usize..140,
    ) {
        play(&steps, padding);
    }
}
