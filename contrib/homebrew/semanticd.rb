# A formula for a tap of your own. A release sets `url` and `sha256`:
#
#     make package-check
#     python contrib/dev/generators/homebrew_formula.py URL-OF-THE-SDIST dist/semanticd-0.2.0.tar.gz
#
# then: brew tap-new you/semanticd, copy this file into its Formula folder, brew install you/semanticd/semanticd
class Semanticd < Formula
  desc "Serves MLX language models and keeps every agent's KV cache across restarts"
  homepage "https://example.com/semanticd"
  url "https://example.com/semanticd-0.2.0.tar.gz"
  sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  license "MIT"

  depends_on arch: :arm64
  depends_on macos: :sonoma
  depends_on "python@3.13"

  # MLX comes as a wheel with its Metal library: it is installed, not built, at the versions that CI ran with.
  def install
    system "python3.13", "-m", "venv", libexec
    system libexec/"bin/python", "-m", "pip", "install", "--disable-pip-version-check",
           "--constraint", "constraints.txt", buildpath
    bin.install_symlink libexec/"bin/semanticd", libexec/"bin/semantic", libexec/"bin/semantic-tui"
    generate_completions_from_executable(bin/"semanticd", "completion")
  end

  # `brew services start semanticd`; `semanticd service install` does the same without Homebrew, use one of them.
  service do
    run [opt_bin/"semanticd", "serve"]
    keep_alive crashed: true
    process_type :interactive
    environment_variables SEMANTIC_LOG_CONSOLE: "false"
    error_log_path var/"log/semanticd.err.log"
  end

  test do
    ENV["SEMANTIC_RUNTIME_DIR"] = testpath/"run"
    assert_match version.to_s, shell_output("#{bin}/semanticd version")
    assert_match "semanticd start", shell_output("#{bin}/semanticd status 2>&1", 3)
    assert_match "usage", shell_output("#{bin}/semantic-tui --help")
  end
end
