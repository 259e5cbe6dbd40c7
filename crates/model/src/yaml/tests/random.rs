// SPDX-License-Identifier: Apache-2.0
//! Random input: no bytes make the reader panic, and every resource survives its own document.
