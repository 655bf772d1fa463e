//! deploy/charts, deploy/policy, deploy/kustomize and deploy/examples: what a platform team
//! installs. Helm renders it (tests/it/py/helm.py). The types of the Kubernetes API and our own
//! programs judge it.

mod commands;
mod objects;
mod policies;
mod programs;
mod rendered;
mod selectors;
mod values;
