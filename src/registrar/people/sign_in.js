// Takes the token out of the address, so that the history does not keep it. It is sent when the
// button is pressed: a preview of the link does not use it up.
const token = location.hash.slice(1);
if (/^[\w-]{43}$/.test(token)) {
  history.replaceState(null, "", location.pathname);
  document.getElementById("token").value = token;
  document.getElementById("token-field").hidden = true;
  document.getElementById("without-link").hidden = true;
  document.getElementById("with-link").hidden = false;
}
