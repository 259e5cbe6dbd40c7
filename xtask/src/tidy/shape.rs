// SPDX-License-Identifier: Apache-2.0
//! Sizes and names.

use super::{Complaint, Source};
use anyhow::{Context, Result};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
const FIELDS_MAX: usize = 12;
/// What users write in one document, field by field: how many there are is their affair, not the code's.
const FORMS: &[&str] = &["TrafficPolicy", "TrafficSpec"];
const METHODS_MAX: usize = 7;
/// Words that stand for a lack of an idea.
const BANNED: &[&str] = &["Manager", "Factory", "Handler", "Helper", "Util", "Common", "Impl", "Info", "Data"];

/// Complains about what is too long, and about names that say nothing.
pub(super) fn check(sources: &[Source], complaints: &mut Vec<Complaint>) -> Result<()> {
    for source in sources.iter().filter(|s| !s.is_generated()) {
        if source.text.lines().count() > FILE_LINES_MAX {
            complaints.push(Complaint::new(&source.path, format!("longer than {FILE_LINES_MAX} lines")));
        }
        if !source.text.starts_with("// SPDX-License-Identifier: Apache-2.0\n") {
            complaints.push(Complaint::new(&source.path, "does not open with the SPDX line"));
        }
        let stem = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        if stem.split('_').any(|word| BANNED.iter().any(|b| b.eq_ignore_ascii_case(word))) {
            complaints.push(Complaint::new(&source.path, "a banned word in a file's name"));
        }
        let file = syn::parse_file(&source.text).with_context(|| source.path.clone())?;
        Visitor { source, test: source.is_test(), complaints }.visit_file(&file);
    }
    Ok(())
}

struct Visitor<'a> {
    source: &'a Source,
    /// Inside a test: tables may be long.
    test: bool,
    complaints: &'a mut Vec<Complaint>,
}

impl Visitor<'_> {
    fn complain(&mut self, at: proc_macro2::Span, what: String) {
        self.complaints.push(Complaint::new(format!("{}:{}", self.source.path, at.start().line), what));
    }

    fn check_name(&mut self, ident: &syn::Ident) {
        let name = ident.to_string();
        let banned = words(&name).iter().any(|word| BANNED.contains(&word.as_str()));
        if banned || (name.ends_with("Base") && name != "Base") {
            self.complain(ident.span(), format!("`{name}` has a banned word in it"));
        }
    }

    fn check_body(&mut self, ident: &syn::Ident, block: &syn::Block) {
        let lines = block.span().end().line.saturating_sub(block.span().start().line);
        if lines > FUNCTION_LINES_MAX && !self.test {
            self.complain(ident.span(), format!("`{ident}` is {lines} lines long; {FUNCTION_LINES_MAX} is the most"));
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let before = self.test;
        self.test |= item.ident == "tests";
        visit::visit_item_mod(self, item);
        self.test = before;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.check_body(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if item.sig.ident.to_string().starts_with("get_") {
            self.complain(item.sig.ident.span(), format!("`{}`: no `get_`", item.sig.ident));
        }
        self.check_body(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.check_name(&item.ident);
        let form = FORMS.iter().any(|form| item.ident == form);
        if item.fields.len() > FIELDS_MAX && !form {
            self.complain(item.ident.span(), format!("`{}` has more than {FIELDS_MAX} fields", item.ident));
        }
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.check_name(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.check_name(&item.ident);
        let methods = item.items.iter().filter(|i| matches!(i, syn::TraitItem::Fn(_))).count();
        if methods > METHODS_MAX {
            self.complain(item.ident.span(), format!("`{}` has more than {METHODS_MAX} methods", item.ident));
        }
        visit::visit_item_trait(self, item);
    }
}

/// The words of a name in camel case.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for c in name.chars() {
        match words.last_mut() {
            Some(word) if !c.is_uppercase() => word.push(c),
            _ => words.push(c.to_string()),
        }
    }
    words
}
