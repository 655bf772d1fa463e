//! deploy/charts, deploy/policy, deploy/kustomize and deploy/examples: what a platform team installs. Helm
//! renders (tests/it/py/helm.py), the types of the Kubernetes API and our own programs judge.

mod commands;
mod objects;
mod policies;
mod programs;
mod rendered;
mod selectors;
mod values;
