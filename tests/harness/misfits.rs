//! Components that are to be refused, made from good ones by appending sections: those of a component may come in any
//! order and number, so nothing that is there needs to be touched.

use wasm_encoder::{
    CodeSection, ComponentImportSection, ComponentSection, ComponentTypeRef, ComponentTypeSection, Function,
    FunctionSection, InstanceSection, InstanceType, Instruction, Module, ModuleArg, ModuleSection, StartSection,
    TypeSection,
};
use wasmparser::Validator;
use wasmparser::types::Types;

/// It also imports an instance of this name, for instance `wasi:cli/environment@0.2.0`, which none of our worlds has.
pub(crate) fn with_import(component: &[u8], name: &str) -> Vec<u8> {
    let mut types = ComponentTypeSection::new();
    types.instance(&InstanceType::new());
    let mut imports = ComponentImportSection::new();
    imports.import(name, ComponentTypeRef::Instance(validated(component).as_ref().component_type_count()));
    appended(component, &[&types, &imports])
}

/// Instantiating it traps, in the start function of a module that has no other. It fits its world: only trying it shows.
pub(crate) fn with_trap_at_load(component: &[u8]) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let mut functions = FunctionSection::new();
    functions.function(0);
    let mut code = CodeSection::new();
    let mut body = Function::new([]);
    body.instruction(&Instruction::Unreachable).instruction(&Instruction::End);
    code.function(&body);
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&StartSection { function_index: 0 }).section(&code);

    let mut instances = InstanceSection::new();
    instances.instantiate(validated(component).as_ref().module_count(), [] as [(&str, ModuleArg); 0]);
    appended(component, &[&ModuleSection(&module), &instances])
}

fn appended(component: &[u8], sections: &[&dyn ComponentSection]) -> Vec<u8> {
    let mut component = component.to_vec();
    sections.iter().for_each(|section| section.append_to_component(&mut component));
    component
}

/// Validated, so that the indices of what is appended are known.
fn validated(component: &[u8]) -> Types {
    Validator::new().validate_all(component).expect("the component is a good one")
}
